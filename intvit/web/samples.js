/**
 * Pictures drawn here, for whoever has none at hand. Plain shapes, yet a classifier of photographs knows most of them.
 */

const SIZE = 320;

/** @typedef {CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D} Context */

/** @type {{name: string, draw: (context: Context) => void}[]} */
export const SAMPLES = [
  { name: "Daisy", draw: daisy },
  { name: "Clock", draw: clock },
  { name: "Traffic light", draw: trafficLight },
];

/** A sample as a canvas. @param {(context: Context) => void} draw */
export function drawn(draw) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIZE;
  draw(/** @type {Context} */ (canvas.getContext("2d")));
  return canvas;
}

/**
 * From `top` to `bottom`, over all of the picture.
 * @param {Context} context @param {string} top @param {string} bottom
 */
function background(context, top, bottom) {
  const fill = context.createLinearGradient(0, 0, 0, SIZE);
  fill.addColorStop(0, top);
  fill.addColorStop(1, bottom);
  context.fillStyle = fill;
  context.fillRect(0, 0, SIZE, SIZE);
}

/**
 * @param {Context} context @param {number} x @param {number} y @param {number} radius
 * @param {string | CanvasGradient} fill
 */
function disc(context, x, y, radius, fill) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fillStyle = fill;
  context.fill();
}

/**
 * A light that comes from the upper left.
 * @param {Context} context @param {number} x @param {number} y @param {number} radius @param {string[]} colors
 */
function lit(context, x, y, radius, colors) {
  const fill = context.createRadialGradient(x - radius / 3, y - radius / 3, radius / 10, x, y, radius);
  colors.forEach((color, i) => fill.addColorStop(i / (colors.length - 1), color));
  return fill;
}

/** @param {Context} context */
function daisy(context) {
  background(context, "#3f7d3a", "#1e4d22");
  for (let i = 0; i < 60; i++) {
    const x = (i * 97) % SIZE;
    const y = (i * 53) % SIZE;
    context.strokeStyle = i % 2 ? "#2c6a2c" : "#57994a";
    context.lineWidth = 3;
    context.beginPath();
    context.moveTo(x, y + 50);
    context.quadraticCurveTo(x + 6, y + 20, x + (i % 5) * 6 - 12, y);
    context.stroke();
  }
  context.save();
  context.translate(160, 160);
  const rings = [
    { length: 118, turn: 0.5, fill: "#dfe3ea" },
    { length: 108, turn: 0, fill: "#ffffff" },
  ];
  for (const { length, turn, fill } of rings) {
    for (let i = 0; i < 20; i++) {
      context.save();
      context.rotate(((i + turn) * Math.PI) / 10);
      context.beginPath();
      context.ellipse(length / 2 + 14, 0, length / 2, 13, 0, 0, 2 * Math.PI);
      context.fillStyle = fill;
      context.fill();
      context.strokeStyle = "#c3cad6";
      context.lineWidth = 1.2;
      context.stroke();
      context.restore();
    }
  }
  context.restore();
  disc(context, 160, 160, 40, lit(context, 160, 160, 40, ["#ffe36b", "#f5bb16", "#c98708"]));
  for (let i = 0; i < 90; i++) {
    const radius = 37 * Math.sqrt(i / 90);
    disc(
      context,
      160 + radius * Math.cos(i * 2.4),
      160 + radius * Math.sin(i * 2.4),
      1.8,
      i % 2 ? "#b8790a" : "#ffd84d",
    );
  }
}

/** @param {Context} context */
function clock(context) {
  background(context, "#d9cfc0", "#c2b5a2");
  disc(context, 166, 170, 128, "rgba(60, 45, 30, 0.25)");
  disc(context, 160, 160, 128, lit(context, 160, 160, 128, ["#6b4a2c", "#4a2f19", "#2e1c0e"]));
  disc(context, 160, 160, 110, lit(context, 160, 160, 110, ["#ffffff", "#f8f5ec", "#e6dfcd"]));
  context.fillStyle = context.strokeStyle = "#1d1a17";
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.font = "bold 26px Georgia, serif";
  for (let i = 1; i <= 60; i++) {
    const angle = (i * Math.PI) / 30 - Math.PI / 2;
    const [c, s] = [Math.cos(angle), Math.sin(angle)];
    context.lineWidth = i % 5 ? 1.5 : 4;
    context.beginPath();
    context.moveTo(160 + 104 * c, 160 + 104 * s);
    context.lineTo(160 + (i % 5 ? 99 : 95) * c, 160 + (i % 5 ? 99 : 95) * s);
    context.stroke();
    if (i % 5 === 0) context.fillText(String(i / 5), 160 + 79 * c, 161 + 79 * s);
  }
  hand(context, (10 + 9 / 60) / 12, 56, 8, "#1d1a17");
  hand(context, 9 / 60, 88, 5, "#1d1a17");
  hand(context, 36 / 60, 94, 2, "#b3261e");
  disc(context, 160, 160, 7, "#1d1a17");
}

/**
 * @param {Context} context @param {number} turn of a whole round @param {number} length @param {number} width
 * @param {string} color
 */
function hand(context, turn, length, width, color) {
  const angle = turn * 2 * Math.PI - Math.PI / 2;
  context.strokeStyle = color;
  context.lineWidth = width;
  context.lineCap = "round";
  context.beginPath();
  context.moveTo(160 - 14 * Math.cos(angle), 160 - 14 * Math.sin(angle));
  context.lineTo(160 + length * Math.cos(angle), 160 + length * Math.sin(angle));
  context.stroke();
}

/** @param {Context} context */
function trafficLight(context) {
  background(context, "#8fbce6", "#e3eef7");
  context.fillStyle = "#3a3f44";
  context.fillRect(151, 250, 18, 70);
  context.fillStyle = "#17191b";
  context.beginPath();
  context.roundRect(108, 22, 104, 238, 18);
  context.fill();
  context.strokeStyle = "#34383c";
  context.lineWidth = 4;
  context.stroke();
  const lamps = [
    ["#ffb3a8", "#f23a25", "#a80f05"],
    ["#5a4a1c", "#43370f", "#2a2208"],
    ["#1f4a2c", "#15381f", "#0c2413"],
  ];
  lamps.forEach((colors, i) => {
    const y = 66 + 75 * i;
    disc(context, 160, y, 34, "#0b0c0d");
    disc(context, 160, y, 30, lit(context, 160, y, 30, colors));
    context.strokeStyle = "#2a2d30";
    context.lineWidth = 7;
    context.beginPath();
    context.arc(160, y, 34, 1.05 * Math.PI, 1.95 * Math.PI);
    context.stroke();
  });
}
