// The editor of dashboards: panels on the grid of a page, moved and sized by mouse and keyboard. What
// is edited stays in the text field as JSON, which is YAML, so that the server reads one thing.
(() => {
  "use strict";

  const editor = document.getElementById("dashboard-editor");
  const text = document.getElementById("yaml");
  if (!editor || !text) return;
  const COLUMNS = 12;
  const ROWS = 12;
  const known = new Map(JSON.parse(editor.dataset.panels).map((panel) => [panel.name, panel]));
  const fields = JSON.parse(editor.dataset.fields);
  let content = JSON.parse(editor.dataset.content);
  let isOwn = false;
  let nextId = 0;

  const create = (name, options = {}, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(options)) {
      if (key === "text") element.textContent = value;
      else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else if (key in element && key !== "list") element[key] = value;
      else element.setAttribute(key, value);
    }
    element.append(...children);
    return element;
  };
  const button = (label, title, onclick) => create("button", { type: "button", className: "plain", text: label, "aria-label": title, title, onclick });
  const field = (label, input) => {
    input.id ||= "editor-" + nextId++;
    return create("p", { className: "field" }, create("label", { htmlFor: input.id, text: label }), input);
  };

  const spoken = create("p", { className: "hidden", role: "status" });
  const grid = create("ol", { className: "grid editor-grid" });
  const name = create("input", { name: "dashboard-name", pattern: "[a-z0-9][a-z0-9_\\-]*", autocomplete: "off" });
  const title = create("input", { autocomplete: "off", maxLength: 120 });

  // ---- what is edited

  const widthOf = (placed) => placed.width || known.get(placed.panel)?.width || 6;
  const heightOf = (placed) => placed.height || 0;
  const titleOf = (placed) => placed.title || placed.filter?.metric || known.get(placed.panel)?.title || placed.panel;

  const write = () => {
    content.name = name.value;
    content.title = title.value;
    text.value = JSON.stringify(content, null, 2) + "\n";
    isOwn = true;
  };
  const change = (message) => {
    write();
    show();
    if (message) spoken.textContent = message;
  };
  const focusOn = (index, part) => grid.children[index]?.querySelector('[data-part="' + part + '"]')?.focus();

  const move = (from, to, part) => {
    if (to < 0 || to >= content.panels.length || from === to) return;
    content.panels.splice(to, 0, ...content.panels.splice(from, 1));
    change(titleOf(content.panels[to]) + " is panel " + (to + 1) + " of " + content.panels.length);
    focusOn(to, part);
  };
  const resize = (index, width, height, part) => {
    const placed = content.panels[index];
    placed.width = Math.min(Math.max(width, 1), COLUMNS);
    if (height > 0) placed.height = Math.min(height, ROWS);
    else delete placed.height;
    change(titleOf(placed) + ": " + placed.width + " columns, " + (placed.height ? placed.height + " rows" : "as tall as its content"));
    focusOn(index, part);
  };
  const remove = (index) => {
    const [placed] = content.panels.splice(index, 1);
    change(titleOf(placed) + " removed");
    (grid.children[Math.min(index, content.panels.length - 1)]?.querySelector("[data-part]") ?? addName).focus();
  };
  const add = (placed) => {
    content.panels.push(placed);
    change(titleOf(placed) + " added");
    focusOn(content.panels.length - 1, "handle");
  };

  // ---- the grid

  let dragged = null;
  const card = (placed, index) => {
    const handle = button("\u2630", titleOf(placed) + ": move with the arrow keys, or drag", () => {});
    handle.dataset.part = "handle";
    handle.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 };
      if (!(event.key in steps)) return;
      event.preventDefault();
      if (event.shiftKey) {
        const isWidth = event.key === "ArrowLeft" || event.key === "ArrowRight";
        resize(index, widthOf(placed) + (isWidth ? steps[event.key] : 0), heightOf(placed) + (isWidth ? 0 : steps[event.key]), "handle");
      } else move(index, index + steps[event.key], "handle");
    });
    const sizes = create("span", { className: "sizes" },
      button("\u2212", "Narrower: " + titleOf(placed), () => resize(index, widthOf(placed) - 1, heightOf(placed), "narrower")),
      create("span", { className: "figure", text: widthOf(placed) + " / " + COLUMNS }),
      button("+", "Wider: " + titleOf(placed), () => resize(index, widthOf(placed) + 1, heightOf(placed), "wider")),
      button("\u25b2", "Lower: " + titleOf(placed), () => resize(index, widthOf(placed), heightOf(placed) - 1, "lower")),
      create("span", { className: "figure", text: heightOf(placed) ? heightOf(placed) + " rows" : "auto" }),
      button("\u25bc", "Taller: " + titleOf(placed), () => resize(index, widthOf(placed), heightOf(placed) + 1, "taller")),
    );
    ["narrower", "wider", "lower", "taller"].forEach((part, place) => (sizes.querySelectorAll("button")[place].dataset.part = part));
    const filters = Object.entries(placed.filter ?? {}).map(([key, value]) => key + "=" + value).join(" ");
    const isKnown = known.has(placed.panel);
    const item = create("li", { className: "card editor-card", draggable: true, "data-width": String(widthOf(placed)) },
      create("p", { className: "editor-head" }, handle, create("b", { text: titleOf(placed) }), button("\u00d7", "Remove " + titleOf(placed), () => remove(index))),
      create("p", { className: isKnown ? "quiet" : "bad", text: placed.panel + (isKnown ? "" : " does not exist") }),
      create("p", { className: "quiet filters", text: filters }),
      create("p", {}, sizes),
      settingsOf(placed, index),
    );
    item.addEventListener("dragstart", (event) => {
      dragged = index;
      event.dataTransfer.effectAllowed = "move";
      event.dataTransfer.setData("text/plain", String(index));
    });
    item.addEventListener("dragover", (event) => {
      if (dragged === null) return;
      event.preventDefault();
      item.classList.add("over");
    });
    item.addEventListener("dragleave", () => item.classList.remove("over"));
    item.addEventListener("drop", (event) => {
      event.preventDefault();
      const from = dragged;
      dragged = null;
      if (from !== null) move(from, index, "handle");
    });
    item.addEventListener("dragend", () => (dragged = null));
    return item;
  };

  // The title of a panel on this page, and its filters.
  const opened = new Set();
  const settingsOf = (placed, index) => {
    const names = known.get(placed.panel)?.filters ?? Object.keys(placed.filter ?? {});
    const own = create("input", { value: placed.title ?? "", maxLength: 120, placeholder: known.get(placed.panel)?.title ?? "" });
    own.addEventListener("change", () => {
      if (own.value.trim()) placed.title = own.value.trim();
      else delete placed.title;
      change("");
    });
    const inputs = names.filter((each) => each !== "sort").map((each) => {
      const described = placed.panel === "chart" ? fields.find((known) => known.name === each) : undefined;
      const input = described?.choices?.length
        ? create("select", {}, create("option", { value: "", text: described.hint }), ...described.choices.map((choice) => create("option", { value: choice, text: choice })))
        : create("input", { placeholder: described?.hint ?? "", autocomplete: "off" });
      input.value = placed.filter?.[each] ?? "";
      input.addEventListener("change", () => {
        placed.filter ??= {};
        if (input.value.trim()) placed.filter[each] = input.value.trim();
        else delete placed.filter[each];
        change("");
      });
      return field(described?.label ?? each, input);
    });
    const details = create("details", { className: "editor-settings" }, create("summary", { text: "Title and filters" }), field("Title", own), ...inputs);
    details.open = opened.has(placed);
    details.addEventListener("toggle", () => (details.open ? opened.add(placed) : opened.delete(placed)));
    return details;
  };

  const show = () => {
    const focused = document.activeElement?.dataset?.part;
    grid.replaceChildren(...content.panels.map(card));
    empty.hidden = content.panels.length > 0;
    return focused;
  };

  // ---- adding panels

  const options = [...known.values()];
  const addName = create("select", {}, ...options.map((panel) => create("option", { value: panel.name, text: panel.title + " (" + panel.name + ")" })));
  const addPanel = create("button", { type: "button", text: "Add panel", onclick: () => add({ panel: addName.value }) });
  const builder = new Map();
  const buildChart = create("button", { type: "button", text: "Add chart" });
  const chartTitle = create("input", { maxLength: 120, placeholder: "the metric" });
  for (const each of fields) {
    const input = each.choices.length
      ? create("select", {}, create("option", { value: "", text: each.hint }), ...each.choices.map((choice) => create("option", { value: choice, text: choice })))
      : create("input", { placeholder: each.hint, autocomplete: "off", spellcheck: false });
    builder.set(each.name, input);
  }
  // Completion with the metrics and names that the viewer can see.
  const completions = new Map();
  const complete = async () => {
    if (completions.size) return;
    for (const [label, filter] of [["__name__", "metric"], ["kind", "kind"], ["namespace", "namespace"], ["name", "name"]]) {
      const list = create("datalist", { id: "known-" + filter });
      completions.set(filter, list);
      editor.append(list);
      builder.get(filter).setAttribute("list", list.id);
      try {
        const response = await fetch("/api/v1/label/" + label + "/values");
        const { data } = await response.json();
        list.replaceChildren(...(data ?? []).slice(0, 500).map((value) => create("option", { value })));
      } catch {
        // Without completion the names can still be typed.
      }
    }
  };
  buildChart.addEventListener("click", () => {
    const filter = {};
    for (const [key, input] of builder) if (input.value.trim()) filter[key] = input.value.trim();
    if (!filter.metric) {
      spoken.textContent = "Choose a metric first.";
      builder.get("metric").focus();
      return;
    }
    const placed = { panel: "chart", filter };
    if (chartTitle.value.trim()) placed.title = chartTitle.value.trim();
    add(placed);
  });

  const empty = create("p", { className: "empty", text: "No panels yet. Add one below." });
  const build = () => {
    name.value = content.name;
    title.value = content.title ?? "";
    for (const input of [name, title]) input.addEventListener("input", write);
    const chart = create("details", { className: "editor-build" }, create("summary", { text: "Build a chart of a metric" }),
      create("div", { className: "editor-fields" }, field("Title", chartTitle), ...fields.map((each) => field(each.label, builder.get(each.name)))), create("p", {}, buildChart));
    chart.addEventListener("toggle", () => void complete());
    editor.replaceChildren(
      create("section", { className: "card editor-fields", "aria-label": "Dashboard" }, field("Title", title), field("Name in the address", name)),
      create("section", { "aria-label": "Panels" }, empty, grid),
      create("section", { className: "card", "aria-label": "Add panels" },
        create("div", { className: "editor-fields" }, field("Panel", addName), create("p", { className: "go" }, addPanel)), chart),
      spoken,
    );
    document.getElementById("yaml-details").open = false;
    show();
  };

  if (content !== null) build();
  // A text that is typed or pasted here counts; the server reads it when it is saved.
  text.addEventListener("input", () => {
    if (isOwn || content !== null) editor.hidden = true;
  });
})();
