/* Puts the page together from the data that lie in it. */

const data = JSON.parse(document.getElementById("data").textContent);
const put = (id, nodes) => document.getElementById(id).append(...nodes.filter(Boolean));

put("name", [data.name]);
put("facts", [
  element("li", {}, `preset ${data.preset}`),
  element("li", {}, data.bits),
  element("li", {}, plural(data.accuracy.images, "image")),
  element("li", {}, `digest ${data.digest.slice(0, 16)}`),
  element("li", {}, `intvit ${data.version}`),
]);
const tensors = new Tensors(data);
const chosen = (node) => tensors.show(node);
put("accuracy", accuracySection(data));
put("depth", depthSection(data, chosen));
put("sensitivity", sensitivitySection(data, chosen));
put("tensors", tensors.section());
put("worst", picturesSection(data));
put("latency", latencySection(data));
put("footer", [
  element("h2", {}, "Made with"),
  element("dl", { class: "pairs" }, ...Object.entries(data.settings).map(([term, value]) => element("div", {}, element("dt", {}, term), element("dd", {}, value)))),
  element("p", { class: "note" }, "This page holds all that it shows and loads nothing."),
]);
document.body.dataset.state = "ready";
