// Times on pages, all in one zone that the page names, and copies of rows, which carry full times.
// `almenara.js` uses it.
const almenaraTimes = (() => {
  "use strict";

  const body = document.body;

  const stored = (key) => {
    try {
      return localStorage.getItem(key);
    } catch {
      return null;
    }
  };
  const store = (key, value) => {
    try {
      localStorage.setItem(key, value);
    } catch {
      // Without storage, preferences last until the page is left.
    }
  };

  // The clock of the viewer's machine may be wrong: ages are measured by the server's clock.
  const drift = Number(body.dataset.renderedAt) / 1000 - Date.now();
  const clockOffset = Math.abs(drift) > 2000 ? drift : 0;
  // On a page of the past, time stands still at its moment, or moves with a playback.
  const serverNow = () => (body.dataset.moment ? Number(body.dataset.moment) / 1000 : Date.now() + clockOffset);

  // ---- times

  let showAges = stored("almenara.times") !== "clock";
  const UNITS = [[86_400_000, "d"], [3_600_000, "h"], [60_000, "m"], [1000, "s"]];

  const formatAge = (moment) => {
    const passed = serverNow() - moment;
    const length = Math.abs(passed);
    if (length < 1000) return "now";
    if (length > 365 * 86_400_000) return new Date(moment).toISOString().slice(0, 10);
    if (passed < 0) return "in " + formatRemaining(length);
    const [unit, letter] = UNITS.find(([unit]) => length >= unit);
    return Math.floor(length / unit) + letter;
  };
  // What has just been set to end in 4 hours ends in 4h, not in 3h.
  const formatRemaining = (length) => {
    const place = UNITS.findIndex(([unit]) => length >= unit * 0.99);
    const [unit, letter] = UNITS[place];
    const [smaller, smallerLetter] = UNITS[place + 1] ?? UNITS[place];
    const parts = Math.round(length / smaller);
    const [whole, rest] = [Math.floor((parts * smaller) / unit), parts % (unit / smaller)];
    return whole + letter + (rest && whole < 10 ? rest + smallerLetter : "");
  };

  // All times of a page are in one zone, which the page names: UTC, as the server writes them, or
  // another, which is that of the viewer's machine unless the viewer has chosen one.
  const LOCAL_ZONE = Intl.DateTimeFormat().resolvedOptions().timeZone || "local time";
  const offsetFormat = (name) => new Intl.DateTimeFormat("en-US", { timeZone: name, timeZoneName: "longOffset" });
  const isZone = (name) => {
    try {
      return Boolean(name && offsetFormat(name));
    } catch {
      return false;
    }
  };
  let otherZone = isZone(stored("almenara.zoneName")) ? stored("almenara.zoneName") : LOCAL_ZONE;
  let zone = stored("almenara.zone") === "local" ? "local" : "UTC";
  let hasLocalTimes = zone === "local";
  let format = null;
  const offsetIn = (chosen, moment) => {
    if (chosen === "UTC") return 0;
    if (otherZone === LOCAL_ZONE) return -new Date(moment).getTimezoneOffset();
    format ??= offsetFormat(otherZone);
    const parts = format.formatToParts(moment).find((part) => part.type === "timeZoneName").value;
    const [, sign, hours, minutes] = /^GMT(?:([+-\u2212])(\d\d):(\d\d))?/.exec(parts) ?? [];
    return hours === undefined ? 0 : (sign === "+" ? 1 : -1) * (Number(hours) * 60 + Number(minutes));
  };
  const toZone = (moment, chosen = zone) => new Date(moment + offsetIn(chosen, moment) * 60_000).toISOString();
  const zoneLabel = (moment, chosen = zone) => {
    if (chosen === "UTC") return "UTC";
    const offset = offsetIn(chosen, moment);
    const clock = new Date(Math.abs(offset) * 60_000).toISOString().slice(11, 16);
    return "UTC" + (offset < 0 ? "\u2212" : "+") + clock;
  };
  const formatClock = (moment) => toZone(moment).slice(11, 19);
  const formatFull = (moment, chosen = zone) => toZone(moment, chosen).slice(0, 23).replace("T", " ") + " " + zoneLabel(moment, chosen);
  // In both zones, whichever the page shows.
  const formatBoth = (moment) => formatFull(moment) + " \u00b7 " + formatFull(moment, zone === "UTC" ? "local" : "UTC");
  const formatRange = (since, until) => {
    const [first, last] = [toZone(since), toZone(until)].map((text) => text.slice(0, 19).replace("T", " "));
    const isSameDay = first.slice(0, 10) === last.slice(0, 10);
    return first + " \u2013 " + (isSameDay ? last.slice(11) : last) + " " + zoneLabel(until);
  };
  const momentOf = (time) => Date.parse(time.dateTime);

  const isAbsolute = (time) => "absolute" in time.dataset || time.closest(".detail") !== null;
  const refreshTimes = () => {
    for (const time of document.querySelectorAll(hasLocalTimes ? "time" : "time:not([data-absolute])")) {
      const absolute = isAbsolute(time);
      if (absolute && !hasLocalTimes) continue;
      const moment = momentOf(time);
      if (Number.isNaN(moment)) continue;
      // A time of day keeps its precision: 8 characters to the second, 12 to the millisecond; with
      // the date before it, it has 19.
      const length = absolute ? time.textContent.trim().length : 12;
      if (length !== 8 && length !== 12 && length !== 19) continue;
      const zoned = length === 19 ? toZone(moment).slice(0, 19).replace("T", " ") : toZone(moment).slice(11, 11 + length);
      const text = showAges && !absolute ? formatAge(moment) : zoned;
      if (time.textContent !== text) time.textContent = text;
    }
  };

  const showZone = () => {
    const other = zone === "UTC" ? otherZone : "UTC";
    for (const button of document.querySelectorAll(".zone-switch")) {
      const short = "short" in button.dataset;
      button.hidden = false;
      button.disabled = false;
      button.textContent = (short ? "" : "Times in ") + zoneLabel(Date.now());
      button.title = "Times are in " + (zone === "UTC" ? "UTC" : otherZone) + ". Switch to " + other + ".";
    }
    for (const name of document.querySelectorAll(".zone-name")) name.textContent = zoneLabel(Date.now());
  };

  const setZone = (next) => {
    zone = next;
    hasLocalTimes = true;
    store("almenara.zone", zone);
    showZone();
    refreshTimes();
    document.dispatchEvent(new Event("almenara:zone"));
  };

  const toggleZone = () => setZone(zone === "UTC" ? "local" : "UTC");

  /** Show times in a zone by its IANA name; false for a name that the browser does not know. */
  const chooseZone = (name) => {
    if (name.toUpperCase() === "UTC") {
      setZone("UTC");
      return true;
    }
    if (!isZone(name)) return false;
    otherZone = name;
    format = null;
    store("almenara.zoneName", name);
    setZone("local");
    return true;
  };

  for (const button of document.querySelectorAll(".zone-switch")) button.addEventListener("click", toggleZone);
  document.addEventListener("pointerover", (event) => {
    const time = event.target.closest?.("time");
    if (time && !Number.isNaN(momentOf(time))) time.title = formatBoth(momentOf(time));
  });

  const toggleTimes = () => {
    showAges = !showAges;
    store("almenara.times", showAges ? "ages" : "clock");
    body.classList.toggle("clocks", !showAges);
    refreshTimes();
  };

  // ---- selecting and copying rows

  const selectsRow = (link) => {
    const selection = getSelection();
    return selection.type === "Range" && selection.containsNode(link, true);
  };
  // A link is dragged by default, which keeps its text from being selected.
  document.addEventListener("pointerdown", (event) => {
    const link = event.target.closest?.(".event-link, .step-body");
    if (link) link.draggable = false;
  });
  document.addEventListener(
    "click",
    (event) => {
      const link = event.target.closest?.(".event-link, .step-body");
      if (link && selectsRow(link)) event.preventDefault();
    },
    { capture: true },
  );

  // An age means nothing where it is pasted: copies carry the full time, a row a line.
  const textOf = (node) => {
    const walker = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
    const parts = [];
    while (walker.nextNode()) parts.push(walker.currentNode.data.trim());
    return parts.filter((part) => part !== "").join("\t");
  };
  document.addEventListener("copy", (event) => {
    const selection = getSelection();
    if (!selection.rangeCount || event.target.closest?.("input, textarea")) return;
    const copied = selection.getRangeAt(0).cloneContents();
    const times = copied.querySelectorAll(".event time");
    const inRow = copied.querySelector("time") && selection.anchorNode.parentElement?.closest(".event");
    if (!times.length && !inRow) return;
    for (const time of copied.querySelectorAll("time")) time.textContent = formatFull(momentOf(time));
    const rows = copied.querySelectorAll(".event");
    const lines = rows.length ? [...rows].map(textOf) : [textOf(copied)];
    event.clipboardData.setData("text/plain", lines.filter((line) => line !== "").join("\n"));
    event.preventDefault();
  });

  body.classList.toggle("clocks", !showAges);
  showZone();

  return {
    stored,
    store,
    refresh: refreshTimes,
    toggleAges: toggleTimes,
    toggleZone,
    chooseZone,
    zoneName: () => (zone === "UTC" ? "UTC" : otherZone),
    localZone: LOCAL_ZONE,
    toZone,
    /** The moment in milliseconds of a date and time in the page's zone, such as 2026-01-31T12:00. */
    fromZone: (text) => {
      const guess = Date.parse(text + "Z");
      return guess - offsetIn(zone, guess - offsetIn(zone, guess) * 60_000) * 60_000;
    },
    now: serverNow,
    formatFull,
    formatRange,
    formatSince: (moment) => formatClock(moment + clockOffset) + " " + zoneLabel(moment),
  };
})();
