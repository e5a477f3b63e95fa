// The editor of dashboards: panels on the grid of a page, moved and sized by mouse and keyboard. What
// is edited stays in the text field as JSON, which is YAML, so that the server reads one thing.
(() => {
  "use strict";

  const editor = document.getElementById("dashboard-editor");
  const text = document.getElementById("yaml");
  const form = document.getElementById("dashboard-form");
  if (!editor || !text) return;
  const COLUMNS = 12;
  const ROWS = 12;
  const known = new Map(JSON.parse(editor.dataset.panels).map((panel) => [panel.name, panel]));
  const fields = JSON.parse(editor.dataset.fields);
  const kinds = JSON.parse(editor.dataset.kinds);
  let content = JSON.parse(editor.dataset.content);
  let isOwn = false;
  // A page that reports a problem shows what could not be saved.
  let isUnsaved = document.querySelector(".alarm") !== null;
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
  const titleOf = (placed) => placed.title || placed.filter?.metric || placed.filter?.kind || known.get(placed.panel)?.title || placed.panel;

  const write = () => {
    content.name = name.value;
    content.title = title.value;
    text.value = JSON.stringify(content, null, 2) + "\n";
    isOwn = isUnsaved = true;
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
      const described = fields[placed.panel]?.find((known) => known.name === each);
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
  // A form that builds a panel: its title, and an input for each of its filters.
  const formOf = (panel, needed, summary) => {
    const own = create("input", { maxLength: 120, placeholder: "the " + needed });
    const inputs = new Map();
    for (const each of fields[panel]) {
      inputs.set(each.name, each.choices.length
        ? create("select", {}, create("option", { value: "", text: each.hint }), ...each.choices.map((choice) => create("option", { value: choice, text: choice })))
        : create("input", { placeholder: each.hint, autocomplete: "off", spellcheck: false }));
    }
    const addOne = create("button", { type: "button", text: "Add " + panel });
    const missing = create("span", { className: "bad", role: "alert" });
    addOne.addEventListener("click", () => {
      const filter = {};
      missing.textContent = "";
      for (const [key, input] of inputs) if (input.value.trim()) filter[key] = input.value.trim();
      if (!filter[needed]) {
        missing.textContent = "Choose a " + needed + " first.";
        inputs.get(needed).focus();
        return;
      }
      const placed = { panel, filter };
      if (own.value.trim()) placed.title = own.value.trim();
      add(placed);
    });
    const details = create("details", { className: "editor-build" }, create("summary", { text: summary }),
      create("div", { className: "editor-fields" }, field("Title", own), ...fields[panel].map((each) => field(each.label, inputs.get(each.name)))));
    details.addEventListener("toggle", () => void complete());
    details.append(create("p", {}, addOne, " ", missing));
    return { details, inputs };
  };
  const chart = formOf("chart", "metric", "Build a chart of a metric");
  const table = formOf("table", "kind", "Build a table of resources");

  // Completion with the metrics, kinds and names that the viewer can see.
  const completions = new Map();
  const offer = (name, inputs, values = []) => {
    const list = create("datalist", { id: "known-" + name });
    completions.set(name, list);
    editor.append(list);
    fill(name, values);
    for (const input of inputs) input.setAttribute("list", list.id);
  };
  const fill = (name, values) => completions.get(name).replaceChildren(...values.slice(0, 500).map((value) => create("option", { value })));
  const complete = async () => {
    if (completions.size) return;
    offer("resource-kind", [table.inputs.get("kind")], Object.keys(kinds));
    offer("metric", [chart.inputs.get("metric")]);
    offer("kind", [chart.inputs.get("kind")]);
    for (const name of ["namespace", "name"]) offer(name, [chart.inputs.get(name), table.inputs.get(name)]);
    for (const [label, name] of [["__name__", "metric"], ["kind", "kind"], ["namespace", "namespace"], ["name", "name"]]) {
      try {
        const response = await fetch("/api/v1/label/" + label + "/values");
        const { data } = await response.json();
        fill(name, data ?? []);
      } catch {
        // Without completion the names can still be typed.
      }
    }
  };

  // The columns of a kind, to choose from; those chosen stand in the field in the order of choice.
  const choices = create("fieldset", { className: "editor-columns", hidden: true });
  const columnsOf = () => table.inputs.get("columns").value.split(",").map((part) => part.trim()).filter(Boolean);
  const pathOf = (column) => column.replace(/^[^=]*=/, "").replace(/:.*$/, "");
  const showColumns = () => {
    const paths = kinds[table.inputs.get("kind").value.trim()] ?? [];
    const chosen = new Set(columnsOf().map(pathOf));
    choices.hidden = paths.length === 0;
    choices.replaceChildren(create("legend", { text: "Columns" }), ...paths.map((path) => {
      const box = create("input", { type: "checkbox", checked: chosen.has(path) });
      box.addEventListener("change", () => {
        const others = columnsOf().filter((column) => pathOf(column) !== path);
        table.inputs.get("columns").value = (box.checked ? [...others, path] : others).join(", ");
      });
      return create("label", {}, box, path);
    }));
  };
  for (const name of ["kind", "columns"]) table.inputs.get(name).addEventListener("input", showColumns);

  const empty = create("p", { className: "empty", text: "No panels yet. Add one below." });
  const toName = (words) => words.toLowerCase().normalize("NFKD").replace(/[\u0300-\u036f]/g, "").replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "");
  const build = () => {
    name.value = content.name;
    title.value = content.title ?? "";
    // The name of a new dashboard follows its title, until it is written by hand.
    const isNew = form.elements.version.value === "0";
    let followed = toName(title.value);
    title.addEventListener("input", () => {
      const next = toName(title.value);
      if (isNew && next && [name.value, name.value.replace(/-\d+$/, "")].includes(followed)) name.value = followed = next;
      write();
    });
    name.addEventListener("input", write);
    table.details.lastElementChild.before(choices);
    editor.replaceChildren(
      create("section", { className: "card editor-fields", "aria-label": "Dashboard" }, field("Title", title), field("Name in the address", name)),
      create("section", { "aria-label": "Panels" }, empty, grid),
      create("section", { className: "card", "aria-label": "Add panels" },
        create("div", { className: "editor-fields" }, field("Panel", addName), create("p", { className: "go" }, addPanel)), chart.details, table.details),
      spoken,
    );
    document.getElementById("yaml-details").open = false;
    show();
  };

  if (content !== null) build();
  // A text that is typed or pasted here counts; the server reads it when it is saved.
  const taken = create("p", { className: "quiet", role: "status" });
  text.closest(".field").before(taken);
  text.addEventListener("input", () => {
    isUnsaved = true;
    if (!isOwn && content === null) return;
    editor.hidden = true;
    taken.textContent = "This text is saved in place of the panels above. Save to see them as panels.";
  });
  form.addEventListener("submit", () => (isUnsaved = false));
  addEventListener("beforeunload", (event) => {
    if (isUnsaved) event.preventDefault();
  });
})();
