// Pictures as the browser has them: decoded, stood in for, small.

/** The decoded picture, or nothing where the browser does not know its format, as TIFF. */
export async function imageOf(shot) {
  const image = new Image();
  image.src = shot.url;
  try {
    await image.decode();
    return { image, scale: image.naturalWidth / shot.answer.width };
  } catch {
    return undefined;
  }
}

/** A grey picture of the same size, for what the browser cannot show. */
export function blank({ width, height }) {
  const canvas = document.createElement("canvas");
  const scale = Math.min(1, 1000 / Math.max(width, height));
  canvas.width = Math.max(1, width * scale);
  canvas.height = Math.max(1, height * scale);
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#8a94a0";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  return canvas.toDataURL();
}

/** A small picture that can be clicked, or a mark where there is none to show. */
export function thumb(parent, { label, url, broken }, onClick) {
  const button = document.createElement("button");
  button.type = "button";
  button.title = label;
  const inner = document.createElement(broken ? "span" : "img");
  if (broken) {
    inner.textContent = "!";
    button.setAttribute("aria-label", label);
  } else {
    inner.src = url;
    inner.alt = label;
    inner.loading = "lazy";
  }
  button.append(inner);
  button.addEventListener("click", onClick);
  parent.append(button);
  return button;
}
