// The view of runs: every attempt, then one with its stages, curves and report card.

import { get } from "./api.js";
import { chart } from "./chart.js";
import { count, duration, element, notice, plural, table } from "./dom.js";
import { markdown } from "./markdown.js";

const REFRESH_MS = 5000; // of a run that is going on
// Curves shown together, by the names of what a step records; all others follow, one by one.
const TOGETHER = [
  ["Loss", /loss$|bits_per_byte/],
  ["Reward", /reward/],
  ["Right answers", /accuracy|verified/],
  ["Distance from the start", /^kl$|_kl$/],
];

export function runsView(page, about, [run, attempt]) {
  const body = element("div", { "aria-live": "off" });
  page.append(body);
  let timer = null;
  let gone = false;
  const draw = async () => {
    try {
      const open = new Set([...body.querySelectorAll("details[open]")].map((each) => each.id));
      const { nodes, live } = run ? await one(run, attempt) : await list();
      if (gone) return;
      body.replaceChildren(...nodes);
      for (const each of body.querySelectorAll("details")) if (open.has(each.id)) each.open = true;
      if (live) timer = setTimeout(draw, REFRESH_MS);
    } catch (error) {
      body.replaceChildren(element("h2", { textContent: "Runs" }), notice(error));
    }
  };
  draw();
  return () => {
    gone = true;
    clearTimeout(timer);
  };
}

const badge = (state) => element("span", { className: `badge ${state}`, textContent: state });
const moment = (seconds) => new Date(seconds * 1000).toLocaleString();

async function list() {
  const { runs } = await get("/console/api/runs");
  const rows = runs.map((each) => [
    element("a", { href: `#/runs/${encodeURIComponent(each.run)}/${each.attempt}`, textContent: each.attempt ? `${each.run} / ${each.attempt}` : each.run }),
    badge(each.state),
    moment(each.started),
    duration(each.seconds),
    `${each.done} of ${each.expected}${each.state === "finished" ? "" : `, in ${each.stage || "the first"}`}`,
    each.commit.slice(0, 8),
  ]);
  const empty = element("p", { className: "note", textContent: "No run has a record in this store. headwater run RECIPE starts one." });
  const nodes = [
    element("h2", { textContent: "Runs" }),
    runs.length ? table("Every attempt, the latest first", ["run", "state", "started", "took", "stages", "commit"], rows) : empty,
  ];
  return { nodes, live: runs.some((each) => each.state === "running") };
}

async function one(run, attempt) {
  const found = await get(`/console/api/runs/${encodeURIComponent(run)}/${encodeURIComponent(attempt)}`);
  const longest = Math.max(1, ...found.stages.map((stage) => stage.seconds ?? 0));
  const curves = await Promise.all(
    found.stages.filter((stage) => stage.curves).map((stage) => get(`/console/api/curves/${stage.stage}/${stage.key}`)),
  );
  const head = element(
    "p",
    { className: "lead" },
    badge(found.state),
    ` started ${moment(found.started)}, ${duration(found.seconds)}, ${found.done} of ${found.expected} stages done.`,
  );
  const nodes = [
    element("p", { className: "back" }, element("a", { href: "#/runs", textContent: "← All runs" })),
    element("h2", { textContent: found.attempt ? `${found.run}, attempt ${found.attempt}` : found.run }),
    head,
    ...(found.error ? [element("p", { className: "error", textContent: found.error })] : []),
    ...(found.progress && found.state === "running" ? [progress(found.progress)] : []),
    element("h3", { textContent: "Stages" }),
    element("ol", { className: "stages" }, ...found.stages.map((stage) => stageItem(stage, longest))),
    ...curves.flatMap(curvesOf),
    ...(found.report ? [report(found.report)] : []),
  ];
  return { nodes, live: found.state === "running" };
}

function progress({ label, done, total, unit, note, rate }) {
  const left = rate ? `, ${duration(Math.max(0, total - done) / rate)} left` : "";
  const text = `${label}: ${count(done)} of ${count(total)} ${unit}${left}${note ? `. ${note}` : ""}`;
  return element("p", { className: "now" }, element("progress", { value: done, max: Math.max(1, total), "aria-label": label }), text);
}

function stageItem(stage, longest) {
  const bar = element("span", { className: "bar", "aria-hidden": "true" });
  bar.style.width = `${Math.max(1, (100 * (stage.seconds ?? 0)) / longest)}%`;
  const took = stage.found ? "found finished" : stage.state === "finished" ? duration(stage.seconds) : stage.state;
  const link = element("a", { href: `#/lineage/${stage.stage}/${stage.key}`, textContent: stage.stage });
  return element("li", { className: stage.state }, link, element("span", { className: "track-bar" }, bar), element("span", { className: "took", textContent: took }));
}

function curvesOf({ stage, steps, series }) {
  const rest = { ...series };
  const groups = [];
  for (const [title, pattern] of TOGETHER) {
    const names = Object.keys(rest).filter((name) => pattern.test(name));
    if (!names.length) continue;
    groups.push(chart(title, Object.fromEntries(names.map((name) => [name, rest[name]]))));
    for (const name of names) delete rest[name];
  }
  const others = Object.entries(rest).map(([name, pairs]) => chart(name, { [name]: pairs }));
  const more = element("details", { id: `more-${stage}` }, element("summary", { textContent: plural(others.length, "more curve") }), element("div", { className: "charts" }, ...others));
  return [
    element("h3", { textContent: `${stage}: ${plural(steps, "step")}` }),
    element("div", { className: "charts" }, ...groups),
    ...(others.length ? [more] : []),
  ];
}

function report(text) {
  const body = element("div", { className: "text report" }, ...markdown(text.replace(/^!\[.*$/gm, "")));
  return element("section", { "aria-label": "Report card" }, body);
}
