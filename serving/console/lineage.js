// The view of lineage: the store's artifacts, and what each was made from, by the manifests.

import { get } from "./api.js";
import { duration, element, notice, number, plural, table } from "./dom.js";

export function lineageView(page, about, [stage, key]) {
  const shown = stage && key ? one(stage, key) : list();
  shown.then(
    (nodes) => page.append(...nodes),
    (error) => page.append(element("h2", { textContent: "Lineage" }), notice(error)),
  );
}

const linkTo = ({ stage, key }) => element("a", { href: `#/lineage/${stage}/${key}`, textContent: `${stage}/${key.slice(0, 8)}` });

async function list() {
  const { artifacts, served } = await get("/console/api/artifacts");
  const rows = artifacts.map((each) => {
    const name = element("span", {}, linkTo(each));
    if (`${each.stage}/${each.key}` === served) name.append(" ", element("span", { className: "badge finished", textContent: "served" }));
    const from = element("span", {}, ...Object.entries(each.inputs).flatMap(([input, of]) => [linkTo({ stage: input, key: of }), " "]));
    const metrics = Object.entries(each.metrics).filter(([, value]) => typeof value === "number").slice(0, 3);
    return [name, each.started_at.slice(0, 16).replace("T", " "), duration(each.seconds), size(each.bytes), metrics.map(([n, value]) => `${n} ${number(value)}`).join(", "), from];
  });
  const [servedStage, servedKey] = served.split("/");
  const known = artifacts.some((each) => each.stage === servedStage && each.key === servedKey);
  const lead = element("p", { className: "lead" }, known ? "This server answers with " : "This server answers with a model that is no artifact of its store.");
  if (known) lead.append(linkTo({ stage: servedStage, key: servedKey }), ".");
  return [
    element("h2", { textContent: "Lineage" }),
    lead,
    artifacts.length
      ? table("Artifacts, the latest first", ["artifact", "made", "took", "size", "metrics", "made from"], rows)
      : element("p", { className: "note", textContent: "This store has no finished artifact." }),
  ];
}

async function one(stage, key) {
  const found = await get(`/console/api/artifacts/${encodeURIComponent(stage)}/${encodeURIComponent(key)}`);
  const metrics = flat(found.metrics).map(([name, value]) => [name, number(value)]);
  const config = element("pre", { tabIndex: 0 }, element("code", { textContent: JSON.stringify(found.config, null, 2) }));
  const versions = Object.entries(found.versions).map(([name, value]) => `${name} ${value}`).join(", ");
  return [
    element("p", { className: "back" }, element("a", { href: "#/lineage", textContent: "← All artifacts" })),
    element("h2", { textContent: `${found.stage}/${found.key}` }),
    element("p", { className: "lead", textContent: `Made ${found.started_at.replace("T", " ")} in ${duration(found.seconds)}; ${plural(found.files.length, "file")}, ${size(found.bytes)}. ${versions}` }),
    element("h3", { textContent: "Made from" }),
    element("ul", { className: "tree" }, branch(found.lineage)),
    ...(found.used_by.length
      ? [element("h3", { textContent: "Used by" }), element("ul", { className: "tree" }, ...found.used_by.map((each) => element("li", {}, linkTo(each))))]
      : []),
    ...(metrics.length ? [element("h3", { textContent: "Metrics" }), table("Figures of the manifest", ["metric", "value"], metrics)] : []),
    element("details", {}, element("summary", { textContent: "Settings" }), config),
  ];
}

function branch(node) {
  const from = node.made_from ?? [];
  const item = element("li", {}, node.deleted ? `${node.stage}/${node.key.slice(0, 8)} (deleted)` : linkTo(node));
  if (from.length) item.append(element("ul", {}, ...from.map(branch)));
  return item;
}

function flat(value, prefix = "") {
  if (value !== null && typeof value === "object") {
    return Object.entries(value).flatMap(([name, each]) => flat(each, prefix ? `${prefix}.${name}` : name));
  }
  return [[prefix, value]];
}

function size(bytes) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (bytes < 1000) return `${bytes.toFixed(bytes < 10 && unit !== "B" ? 1 : 0)} ${unit}`;
    bytes /= 1000;
  }
  return `${bytes.toFixed(1)} TB`;
}
