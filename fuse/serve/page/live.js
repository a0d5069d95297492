// The camera, or a video file: its frames are taken here and sent one at a time, as fast as they are answered.

const LONGEST = 1280;  // pixels of a frame's longer side

export class Live {
  /** recognise: a Blob to an answer, or an Error; show: (answer, canvas) for each; ended: (message) at the end. */
  constructor(video, { recognise, show, ended }) {
    Object.assign(this, { video, recognise, show, ended });
    this.round = 0;  // a new one ends the loop of the one before
    this.canvas = document.createElement("canvas");
  }

  get running() {
    return !this.video.hidden;
  }

  async camera() {
    if (!navigator.mediaDevices) {
      throw new Error("this browser gives its camera only to pages of localhost, or over https");
    }
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } }, audio: false });
    } catch (error) {
      throw new Error(error.name === "NotAllowedError" ? "the browser was told not to use the camera"
        : "no camera can be used here");
    }
    this.stop();
    this.video.srcObject = stream;
    this.video.controls = false;
    await this.start();
  }

  async file(blob) {
    this.stop();
    this.url = URL.createObjectURL(blob);
    this.video.src = this.url;
    this.video.controls = true;
    try {
      await this.start();
    } catch {
      this.stop();
      throw new Error(`this browser cannot play ${blob.name}: twofold predict reads more kinds of video`);
    }
  }

  async start() {
    this.video.hidden = false;
    await this.video.play();
    this.loop(++this.round);
  }

  async loop(round) {
    while (round === this.round) {
      if (this.video.readyState < 2 || !this.video.videoWidth || document.hidden || this.shown === this.moment()) {
        await new Promise((resume) => setTimeout(resume, 50));
        continue;
      }
      this.shown = this.moment();
      const answer = await this.recognise(await this.frame());
      if (round !== this.round) return;
      if (answer instanceof Error) {
        this.stop();
        this.ended(answer.message);
        return;
      }
      this.show(answer, this.canvas);
    }
  }

  /** Where a file stands; a paused one is not asked again. The camera always has another frame. */
  moment() {
    return this.video.srcObject ? NaN : this.video.currentTime;
  }

  frame() {
    const { videoWidth: width, videoHeight: height } = this.video;
    const scale = Math.min(1, LONGEST / Math.max(width, height));
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(height * scale);
    this.canvas.getContext("2d").drawImage(this.video, 0, 0, this.canvas.width, this.canvas.height);
    return new Promise((resolve) => this.canvas.toBlob(resolve, "image/jpeg", 0.92));
  }

  stop() {
    this.round++;
    this.shown = undefined;
    this.video.hidden = true;
    this.video.pause();
    this.video.srcObject?.getTracks().forEach((track) => track.stop());
    this.video.srcObject = null;
    if (this.url) {
      URL.revokeObjectURL(this.url);
      this.video.removeAttribute("src");
      this.url = undefined;
    }
  }
}
