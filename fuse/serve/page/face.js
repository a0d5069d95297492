// What is shown of faces: the boxes on the picture, and a card each. Elements stay and are filled anew, so that
// a card can be used while the camera runs.

export const words = (name) => name.replaceAll("_", " ");
export const percent = (share) => `${Math.round(100 * share)} %`;

const element = (tag, parent, className = "") => {
  const node = document.createElement(tag);
  node.className = className;
  parent.append(node);
  return node;
};

/** The likeliest expression of a face, whether it is surer than the threshold, and whether none of them is shown. */
export function callOf(face, run, threshold) {
  if (run.columns) return { name: words(face.answer), sure: true };  // labels or numbers: no one class is the answer
  const place = face.expressions.indexOf(Math.max(...face.expressions));
  const share = face.expressions[place];
  const none = run.basic.length > 0 && face.answer === run.none;
  return { name: words(run.classes[place]), share, sure: share >= threshold, none };
}

const titleOf = ({ name, sure, none }) => (none ? "none of these" : sure ? name : "uncertain");

export const spoken = ({ name, share, sure, none }) =>
  share === undefined ? name : none ? `none of these, the nearest is ${name}` : sure ? `${name}, ${percent(share)}` : `uncertain, at most ${name} with ${percent(share)}`;

/** Names with shares as rows of bars: as many of the likeliest as `most`, in their order or the likeliest first. */
class Bars {
  constructor(parent, label) {
    this.table = element("table", parent, "bars");
    this.table.setAttribute("aria-label", label);
    this.rows = [];
  }

  /** numbers: for each name, whether it has a number instead of a share: its bar is as long as it is far from nought. */
  fill(names, shares, { sorted = false, marked = sorted, most = names.length, more, numbers = [] } = {}) {
    const ranked = names.map((_, place) => place).sort((a, b) => shares[b] - shares[a]);
    const likeliest = ranked[0];
    const order = ranked.slice(0, most);
    if (!sorted) order.sort((a, b) => a - b);
    while (this.rows.length < order.length) this.rows.push(this.row());
    this.rows.forEach((row, rank) => {
      row.line.hidden = rank >= order.length;
      if (row.line.hidden) return;
      const place = order[rank];
      row.line.className = place === likeliest && marked ? "first" : "";
      row.name.textContent = names[place];
      row.bar.style.width = percent(Math.min(Math.abs(shares[place]), 1)).replace(" ", "");
      row.number.textContent = numbers[place] ? shares[place].toFixed(2) : percent(shares[place]);
      if (more) row.more.textContent = more[place];
    });
  }

  row() {
    const line = element("tr", this.table);
    const name = element("th", line);
    name.scope = "row";
    const bar = element("div", element("div", element("td", line), "bar"));
    return { line, name, bar, number: element("td", line, "number"), more: element("td", line, "more") };
  }
}

const FEW = 8;  // expressions that are all shown; of more, the likeliest
const SHOWN = 5;
const folds = new Map();  // which parts are open, by title: the same for all cards

class Fold {
  constructor(parent, title, open) {
    this.box = element("details", parent);
    this.title = element("h3", element("summary", this.box));
    this.title.textContent = title;
    this.box.open = folds.get(title) ?? open;
    this.box.addEventListener("toggle", () => folds.set(title, this.box.open));
  }
}

export class Card {
  constructor(parent, run, number) {
    this.run = run;
    this.number = number;
    this.root = element("article", parent, "face");
    this.root.tabIndex = 0;
    const header = element("header", this.root);
    this.portrait = element("canvas", header);
    this.portrait.width = this.portrait.height = 128;
    this.portrait.setAttribute("aria-hidden", "true");
    const text = element("div", header);
    this.title = element("h2", text);
    this.title.id = `face-${number}`;
    this.root.setAttribute("aria-labelledby", this.title.id);
    this.detail = element("p", text);
    this.top = new Bars(this.root, run.columns || "Expressions, the likeliest first");
    const many = run.classes.length > FEW && !run.columns;
    this.most = many ? SHOWN : run.classes.length;
    if (many) {
      this.all = new Bars(new Fold(this.root, `All ${run.classes.length} expressions`, false).box, "All expressions");
    }
    if (run.basic.length) {
      this.basic = new Bars(new Fold(this.root, "Basic expressions", true).box, "Basic expressions");
    }
    if (run.streams.length > 1 && !run.columns) {
      this.streams = new StreamTable(new Fold(this.root, "What each encoder adds", number === 1).box, run);
    }
  }

  /** live: names stay where they are, since a moving order cannot be read. */
  fill(face, source, threshold, live) {
    const call = callOf(face, this.run, threshold);
    const names = this.run.classes.map(words);
    this.root.hidden = false;
    this.root.classList.toggle("uncertain", !call.sure || call.none);
    this.title.textContent = `${this.number}  ${titleOf(call)}`;
    this.detail.textContent = this.run.columns || (call.none ? `nearest: ${call.name}, of which one emotion has less than `
      + `${percent(this.run.second)} of the basic expressions` : call.sure ? `${percent(call.share)} likely`
      : `at most ${call.name}, ${percent(call.share)}: below ${percent(threshold)}`);
    const { columns, numbers } = this.run;
    this.top.fill(names, face.expressions, { sorted: !live && !columns, marked: !columns, most: this.most, numbers });
    this.all?.fill(names, face.expressions, { numbers });
    this.basic?.fill(this.run.basic.map(words), face.basic, { sorted: !live, marked: true });
    this.streams?.fill(face, call);
    this.draw(face, source);
  }

  draw(face, source) {
    const pen = this.portrait.getContext("2d");
    pen.clearRect(0, 0, 128, 128);
    if (!source) return;
    const [x, y, width, height] = face.box;
    const side = Math.max(width, height) * 1.25;
    const [left, top] = [x + width / 2 - side / 2, y + height / 2 - side / 2];
    pen.drawImage(source.image, left * source.scale, top * source.scale, side * source.scale, side * source.scale,
      0, 0, 128, 128);
  }
}

/** Of each stream its share in the decision, where the head weighs them, and the call's probability without it. */
class StreamTable {
  constructor(parent, run) {
    this.note = element("p", parent, "note");
    this.bars = new Bars(parent, "Encoders");
    this.names = run.streams.map((name) => name.replace(/^[a-z]+:/, "").replaceAll("_", "_\u200b"));  // may break there
  }

  fill(face, call) {
    const likely = `“${call.name}” is ${percent(call.share)} likely`;
    const weighed = face.stream_weights.length > 0;
    this.note.textContent = weighed ? `Shares in the decision; ${likely}, and without one of them as the last column says.`
      : `${likely}; without one of them as follows.`;
    const more = weighed ? face.without.map((share) => `→ ${percent(share)}`) : undefined;
    this.bars.fill(this.names, weighed ? face.stream_weights : face.without, { more });
  }
}

/** Boxes over the picture, in shares of its size, so that they fit at any width. */
export function drawBoxes(parent, answer, run, threshold) {
  const faces = answer?.faces ?? [];
  while (parent.children.length > faces.length) parent.lastChild.remove();
  while (parent.children.length < faces.length) {
    const box = element("div", parent, "box");
    const label = element("b", box);
    label.append(document.createTextNode(""), document.createElement("span"));
  }
  parent.classList.toggle("several", faces.length > 1);
  parent.classList.toggle("many", faces.length > 3);
  faces.forEach((face, place) => {
    const box = parent.children[place];
    const call = callOf(face, run, threshold);
    const [x, y, width, height] = clipped(face.box, answer);
    box.style.left = `${(100 * x) / answer.width}%`;
    box.style.top = `${(100 * y) / answer.height}%`;
    box.style.width = `${(100 * width) / answer.width}%`;
    box.style.height = `${(100 * height) / answer.height}%`;
    box.classList.toggle("uncertain", !call.sure || call.none);
    box.classList.toggle("high", y < 0.08 * answer.height);
    const [number, text] = box.firstChild.childNodes;
    number.textContent = `${place + 1} `;
    text.textContent = titleOf(call) + (call.sure && !call.none && !run.columns ? ` ${percent(call.share)}` : "");
  });
  placeLabels(parent);
}

/** Labels are longer than a small face is wide: they move as far to the left as keeps them within the picture. */
export function placeLabels(parent) {
  for (const box of parent.children) {
    const surplus = box.offsetLeft + box.firstChild.offsetWidth - parent.clientWidth;
    box.firstChild.style.left = `${-4 - Math.min(Math.max(0, surplus), box.offsetLeft)}px`;
  }
}

/** The part of a box within the picture: a face may reach beyond its edges. */
function clipped([x, y, width, height], answer) {
  const [left, top] = [Math.max(x, 0), Math.max(y, 0)];
  return [left, top, Math.min(x + width, answer.width) - left, Math.min(y + height, answer.height) - top];
}
