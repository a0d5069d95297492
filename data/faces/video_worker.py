"""Decode video files for `twofold.data.faces.video`, in a process of its own: FFmpeg may crash, hang or fill the memory
there without ending the run. It imports nothing of Twofold, so that it starts fast and from any installation.
"""

import contextlib
import json
import math
import mmap
import os
import re
import resource
import struct
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from multiprocessing.connection import Connection
from typing import Any

import av
import av.error
import av.logging
import av.stream
import numpy as np
from av.video.reformatter import VideoReformatter

MAX_PIXELS = 64_000_000  #: of a frame, as of a photograph
SHARED_BYTES = 400_000_000  #: of that file, which is sparse: two of the largest frames
MAX_SLOTS = 8
MAX_MEMORY = 8 << 30  #: bytes of address space
MAX_THREADS = 16
#: pixels that a file may decode to: 50,000 frames of full HD, or as many as its size is worth; a still picture shown
#: for an hour in 4K has some 300,000 pixels a byte, a file of empty frames that decodes for hours many millions
MAX_TOTAL_PIXELS, MAX_PIXELS_A_BYTE = 100_000_000_000, 1_000_000
MAX_ERRORS = 1000  #: packets that cannot be decoded
MAX_SECONDS = 10.0 ** 9  #: a longer duration in a header is no duration
JUMP = 3  #: frames by which a clock is set back, or for which it stands, where another recording was appended
#: what FLV, ASF and NUT files begin with
HEADERS = (re.compile(rb"FLV\x01[\x01\x04\x05]\0{3}\x09\0{4}"), re.compile(rb"nut/multimedia container\0"),
           re.compile(rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\0\xaa\0\x62\xce\x6c"))
#: what stands before the size of the file in FLV, and in ASF
FILE_SIZE = re.compile(rb"\0\x08filesize\0(.{8})|"
                       rb"\xa1\xdc\xab\x8c\x47\xa9\xcf\x11\x8e\xe4\0\xc0\x0c\x20\x53\x65.{24}(.{8})", re.DOTALL)
BOX_NAME = re.compile(rb"[\xa9 -~]{4}")  #: of MP4 and MOV
INDEX = re.compile(rb"moov\0...[a-z]{4}", re.DOTALL)  #: a box and the first one in it
#: FFmpeg's demuxers for containers of video and sound. None of them opens other files, as those of playlists do.
CONTAINERS = ("mov,matroska,avi,mpegts,mpeg,mpegvideo,asf,flv,live_flv,ogg,mxf,gxf,nut,ivf,dv,rm,wtv,m4v,h261,h263,"
              "h264,hevc,vvc,obu,av1,vc1,mjpeg,dirac,yuv4mpegpipe,nsv,wav,w64,mp3,flac,aac,aiff,au,amr,ac3,caf")


class VideoError(Exception):
    """A file that cannot be read as a video, or no further; the message is the reason."""


@contextlib.contextmanager
def open_video(path: str) -> Iterator[tuple[Any, Any]]:
    """A container and its first video stream that is no cover picture of a sound file. Raises VideoError."""
    try:
        container = av.open(path, metadata_errors="replace",
                            options={"protocol_whitelist": "file", "format_whitelist": CONTAINERS})
    except av.error.FFmpegError as error:
        reason = "in no known container" if error.errno == 22 else error.strerror or type(error).__name__
        raise VideoError(f"not a video that can be read ({reason})") from None
    except OSError as error:
        raise VideoError(f"unreadable file ({error.strerror})") from None
    with container:
        streams = [stream for stream in container.streams.video
                   if not stream.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            raise VideoError("no video in it, only sound" if container.streams.audio else "no video in it")
        if streams[0].codec_context is None:
            raise VideoError("its codec is unknown here")
        yield container, streams[0]


def facts(path: str) -> dict[str, Any]:
    """What a file's header says: frames (an estimate, 0 where unknown), their rate in 1/s, width and height."""
    with open_video(path) as (container, stream):
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        seconds = float(_length(container, stream)) or (container.duration or 0) / 1e6
        frames = stream.frames or max(0, round(min(seconds, MAX_SECONDS) * rate))
        return {"frames": frames, "rate": rate, "width": stream.width, "height": stream.height}


def frames(path: str, size: int, fps: float, every: int, threads: int) -> Iterator[tuple[int, float, Any] | None]:
    """(index, seconds, frame) of the frames that are used, in order of time, and None for others, now and then. size:
    bytes of the file; fps, every: see `Sampling`; threads: of FFmpeg. Damaged parts are skipped. Raises VideoError,
    after the last frame, where parts were damaged or the file ends before it should."""
    due, pixels, standing, shift, duration = 0, 0, 0, Fraction(0), Fraction(0)
    first: Fraction | None = None
    last: Fraction | None = None
    with open_video(path) as (container, stream):
        if stream.width * stream.height > MAX_PIXELS:
            raise VideoError(f"has frames of more than {MAX_PIXELS} pixels")
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = min(MAX_THREADS, threads)
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        step = 1 / Fraction(stream.average_rate or stream.guessed_rate or 25)
        length = _length(container, stream)
        decoder = _Decoder(container, stream)
        for index, frame in enumerate(decoder.frames()):
            pixels += frame.width * frame.height
            if frame.width * frame.height > MAX_PIXELS:
                raise VideoError(f"has frames of more than {MAX_PIXELS} pixels")
            if pixels > max(MAX_TOTAL_PIXELS, MAX_PIXELS_A_BYTE * size):
                raise VideoError(f"takes too long to decode: after {index} frames, far more pixels than a file of "
                                 f"{size} bytes holds")
            stamp = _seconds(frame, frame.pts)
            time_ = last + step if stamp is None and last is not None else (stamp or Fraction(0)) + shift
            standing = standing + 1 if last is not None and time_ <= last else 0
            if last is not None and (time_ < last - JUMP * step or standing > JUMP):  # another recording, or no clock:
                shift += last + step - time_  # time goes on from here
                time_ = last + step
            last = time_ if last is None else max(last, time_)
            first = last if first is None else first
            duration = _seconds(frame, getattr(frame, "duration", 0)) or Fraction(0)
            elapsed = last - first
            wanted = elapsed * Fraction(fps) >= due if fps else index % every == 0
            if wanted:
                due = math.floor(elapsed * Fraction(fps)) + 1
            yield (index, float(elapsed), frame) if wanted else None
        damage = decoder.damage
        if first is None or last is None:
            raise VideoError(f"no frame in it can be decoded{f' ({damage[0]})' if damage else ''}")
        end = last + max(step, duration) - min(first, 0)  # clocks that begin late count from 0 in the length
        if _is_followed_by_another(path, "mov" in container.format.name.split(",")):
            raise VideoError("has another recording appended to it, which is not read: divide the file")
        missing = end < length - max(Fraction(1, 2), 5 * step, length / 50)  # edit lists cut a few frames off
        written = _written_size(path, size)
        is_whole = decoder.complete and (0 < stream.frames <= decoder.packets or written == size)  # the last is held
        if (missing and not is_whole) or (not length and written > size):
            whole = f"of {float(length):.1f} s" if length else f"s, with {size} of {written} bytes"
            raise VideoError(f"ends after {float(end):.1f} {whole}: the rest is missing or damaged")
    if damage:
        raise VideoError(f"is damaged in {len(damage)} places, where frames are missing ({damage[0]})")


class _Decoder:
    """Decodes the packets of a stream. damage: why some could not be; complete: the file could be read to its end."""

    def __init__(self, container: Any, stream: Any):
        self.container, self.stream, self.packets, self.complete = container, stream, 0, True
        self.damage: list[str] = []

    def frames(self) -> Iterator[Any]:
        try:
            for packet in self.container.demux(self.stream):
                self.packets += bool(packet.size)
                try:
                    yield from packet.decode()
                except av.error.FFmpegError as error:
                    large = isinstance(error, av.error.ArgumentError)
                    self.damage.append(f"invalid, or more than {MAX_PIXELS} pixels" if large
                                       else error.strerror or "damaged")
                    if len(self.damage) >= MAX_ERRORS:
                        return
        except av.error.FFmpegError as error:  # the file itself cannot be read on
            self.damage.append(error.strerror or "damaged")
            self.complete = False


def _is_followed_by_another(path: str, is_mov: bool) -> bool:
    """Whether a file has a second beginning, as files have that were joined byte by byte: MP4 and MOV another index,
    FLV, ASF (WMV) and NUT another header. Their demuxers end, or go astray, where it stands. is_mov: MP4 or MOV, whose
    boxes are followed as far as they are sound; what comes then may be anything, such as zeros between recordings."""
    count, place, size = 0, 0, os.path.getsize(path)
    with open(path, "rb") as file:
        while is_mov and place + 16 <= size:
            file.seek(place)
            length, kind, long = struct.unpack(">I4sQ", file.read(16))
            length = long if length == 1 else length
            if length < 8 or place + length > size or not BOX_NAME.fullmatch(kind):
                break
            count += kind == b"moov"
            place += length
        file.seek(place)
        kept = b"" if is_mov else file.read(64)
        beginning = INDEX if is_mov else next((header for header in HEADERS if header.match(kept)), None)
        count += bool(kept)
        kept = kept[1:]
        while beginning and count < 2 and (block := file.read(1 << 24)):
            block = kept + block
            matches = list(beginning.finditer(block))
            count += len(matches)
            kept = block[max(len(block) - 64, matches[-1].end() if matches else 0):]
    return bool(beginning) and count > 1


def _written_size(path: str, size: int) -> int:
    """Bytes of a whole Matroska, WebM, AVI, FLV or ASF file as its head says, 0 where it does not. An FLV without it is
    whole where it ends with the size of its last tag, which that tag's head says, too."""
    with open(path, "rb") as file:
        head = file.read(1 << 12)
        if HEADERS[0].match(head) and not FILE_SIZE.search(head):
            file.seek(-4, os.SEEK_END)
            last = min(int.from_bytes(file.read()), size - 4)
            file.seek(size - 4 - last)
            return size if int.from_bytes(file.read(4)[1:]) == last - 11 else 0
    if match := FILE_SIZE.search(head):
        return int(struct.unpack(">d", match[1])[0]) if match[1] else int.from_bytes(match[2], "little")
    if head.startswith(b"RIFF"):
        return 8 + int.from_bytes(head[4:8], "little")
    place = 0
    for identifier in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"):  # EBML header, segment
        if head[place:place + 4] != identifier or len(head) < place + 13:
            return 0
        width = 9 - head[place + 4].bit_length()
        length = int.from_bytes(head[place + 4:place + 4 + width]) & ((1 << 7 * width) - 1)
        place += 4 + width
        if identifier == b"\x18\x53\x80\x67":
            return 0 if length == (1 << 7 * width) - 1 else place + length
        place += length
    return 0


def _length(container: Any, stream: Any) -> Fraction:
    """Seconds of the video stream by the file's header, 0 where it is silent; sound may be longer than the video."""
    length = Fraction(0) if container.streams.audio else Fraction(container.duration or 0, 1_000_000)
    written = re.fullmatch(r"(\d{1,6}):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", "")[:40])  # Matroska's
    if stream.duration and stream.time_base:
        length = stream.duration * Fraction(stream.time_base)
    elif written:
        length = 3600 * int(written[1]) + 60 * int(written[2]) + Fraction(written[3])
    return length if length < MAX_SECONDS else Fraction(0)


def _seconds(frame: Any, count: int | None) -> Fraction | None:
    return None if count is None or frame.time_base is None else count * Fraction(frame.time_base)


def upright(frame: Any, reformatter: VideoReformatter) -> np.ndarray:
    """(H, W, 3) BGR, turned and mirrored as the display matrix says, to the nearest of the eight orientations: a view
    of the frame converted. Pixels that are not square stay as they are."""
    picture, (a, b, c, d) = reformatter.reformat(frame, format="bgr24"), _display_matrix(frame)
    plane: Any = picture.planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)  # which may be longer than their pixels
    array = rows[:picture.height, :3 * picture.width].reshape(picture.height, picture.width, 3)
    if abs(a) + abs(d) < abs(b) + abs(c):  # rows become columns
        array, a, d = array.swapaxes(0, 1), c, b
    return array[::-1 if d < 0 else 1, ::-1 if a < 0 else 1]


def _display_matrix(frame: Any) -> tuple[int, int, int, int]:
    """(a, b, c, d): a pixel at (x, y) is shown at (a x + c y, b x + d y), up to a shift and a scale."""
    try:
        for data in frame.side_data:
            if data.type.name == "DISPLAYMATRIX":
                a, b, _, c, d = struct.unpack("=5i", bytes(data)[:20])
                return a, b, c, d
    except ValueError:  # data of a kind that PyAV has no name for hide the others: the rotation is there all the same
        return ((1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))[round((frame.rotation or 0) / 90) % 4]
    return 1, 0, 0, 1


def serve(connection: Connection, memory: mmap.mmap) -> None:
    """Answer requests until there are no more: {"path", "size"} for the facts, with "fps", "every", "skip", "threads"
    for frames. skip: indices of frames whose pixels are not wanted; memory: mapped by both processes, receives pixels
    in places that are used in turn; the message "done" says that the next one may be used again."""
    slot, used, place, spoke, reformatter = 0, 0, 1, 0.0, VideoReformatter()

    def send(message: dict[str, Any]) -> None:
        nonlocal spoke
        connection.send_bytes(json.dumps(message).encode())
        spoke = time.monotonic()

    while True:
        line = connection.recv_bytes()
        if line == b"done":
            used -= 1
            continue
        request = json.loads(line)
        try:
            if not request["size"]:
                raise VideoError("empty file")
            if "fps" not in request:
                send({"facts": facts(request["path"])})
                continue
            skip, spoke = set(request["skip"]), time.monotonic()
            for each in frames(*(request[name] for name in ("path", "size", "fps", "every", "threads"))):
                if each is None:
                    if time.monotonic() - spoke > 1:
                        send({})  # alive
                    continue
                index, seconds, frame = each
                message = {"frame": index, "time": seconds}
                if index not in skip:
                    array = upright(frame, reformatter)
                    slots = min(MAX_SLOTS, SHARED_BYTES // array.size)
                    while used and (used >= slots or array.size != place):
                        used -= connection.recv_bytes() == b"done"
                    slot, used, place = (slot + 1) % slots, used + 1, array.size
                    np.frombuffer(memory, np.uint8, place, slot * place).reshape(array.shape)[:] = array
                    message |= {"at": slot * place, "shape": array.shape}
                    del array  # so that its memory is used again
                send(message)
            send({"end": True})
        except VideoError as error:
            send({"error": str(error)})
        except MemoryError:
            send({"error": "not enough memory to decode it"})
        except (ValueError, ArithmeticError, TypeError) as error:  # a header of impossible numbers
            send({"error": f"is damaged ({type(error).__name__})"})


if __name__ == "__main__":
    av.logging.set_level(None)
    with contextlib.suppress(ValueError, OSError):  # a lower limit is set already, or none can be
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    with contextlib.suppress(EOFError, ConnectionError):
        serve(Connection(int(sys.argv[1])), mmap.mmap(int(sys.argv[2]), SHARED_BYTES))
