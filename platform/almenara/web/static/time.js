// The time control: times in the zone of the page, links that stay in the time window of the page,
// and playback, whose moment moves with the frames. Without it, the control's links and forms work
// in UTC.
(() => {
  "use strict";

  const times = almenaraTimes;
  const byId = (id) => document.getElementById(id);
  const body = document.body;
  const control = byId("time-control");
  const bar = byId("past-bar");
  const isPage = (path) => path === "/" || /^\/(dashboards|panels|events|timeline|alerts|sources|changes)\b/.test(path);

  // ---- times are entered in the zone of the page

  const setForms = () => {
    const end = body.dataset.moment ? Number(body.dataset.moment) / 1000 : Date.now();
    const values = { "time-at": end, "time-until": end, "time-since": end - 3_600_000 };
    for (const [id, moment] of Object.entries(values)) byId(id).value = times.toZone(moment).slice(0, 19);
  };

  const submit = (event) => {
    event.preventDefault();
    const address = new URL(event.target.action);
    for (const field of event.target.elements) {
      if (!field.name || !field.value) continue;
      const isTime = field.type === "datetime-local";
      address.searchParams.set(field.name, isTime ? new Date(times.fromZone(field.value)).toISOString() : field.value);
    }
    location.assign(address);
  };

  if (control) {
    setForms();
    document.addEventListener("almenara:zone", setForms);
    for (const form of control.querySelectorAll("form")) form.addEventListener("submit", submit);
    const zone = byId("time-zone");
    const names = ["UTC", times.localZone, ...(Intl.supportedValuesOf?.("timeZone") ?? [])];
    for (const name of new Set(names)) {
      const option = document.createElement("option");
      option.value = name;
      byId("time-zones").append(option);
    }
    zone.closest(".time-zone").hidden = false;
    zone.value = times.zoneName();
    zone.addEventListener("change", () => {
      const isKnown = times.chooseZone(zone.value.trim());
      zone.setCustomValidity(isKnown ? "" : "Unknown time zone. Choose one from the list, such as Europe/Madrid.");
      zone.reportValidity();
    });
    document.addEventListener("almenara:zone", () => (zone.value = times.zoneName()));
    document.addEventListener("click", (event) => {
      if (control.open && !control.contains(event.target)) control.open = false;
    });
    control.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !control.open) return;
      control.open = false;
      control.querySelector("summary").focus();
      event.stopPropagation();
    });
  }

  // ---- frames have no time window in their links

  document.addEventListener(
    "click",
    (event) => {
      const link = event.target.closest?.("a[href]");
      if (!link || !body.dataset.timeQuery || "time" in link.dataset) return;
      const address = new URL(link.href);
      if (address.origin !== location.origin || !isPage(address.pathname) || link.getAttribute("href").startsWith("#")) return;
      const own = new URLSearchParams(body.dataset.timeQuery);
      const conflicts = own.has("at") ? ["at"] : ["range", "since", "until", "at"];
      if (conflicts.some((name) => address.searchParams.has(name))) return;
      for (const [name, value] of own) address.searchParams.set(name, value);
      link.href = address.href;
    },
    true,
  );

  // ---- playback

  if (bar?.dataset.speed) {
    const own = new URLSearchParams(body.dataset.timeQuery);
    // With its start in the address, the page that is shared shows the same moment at the same time.
    const address = new URL(location.href);
    if (!address.searchParams.has("started")) {
      for (const [name, value] of own) address.searchParams.set(name, value);
      history.replaceState(history.state, "", address);
    }
    const moments = document.querySelectorAll("time.moment");
    const pause = byId("pause-playback");
    document.addEventListener("htmx:ws:before:message:incoming", (event) => {
      const message = event.detail.message?.data;
      if (typeof message !== "string" || !message.includes('"moment":')) return;
      const next = JSON.parse(message).moment;
      if (!next || String(next) === body.dataset.moment) return;
      body.dataset.moment = String(next);
      const text = new Date(next / 1000).toISOString();
      for (const moment of moments) {
        moment.dateTime = text;
        moment.textContent = times.toZone(next / 1000).slice(0, 19).replace("T", " ");
      }
      for (const link of [pause, ...bar.querySelectorAll("a[data-play]")]) {
        const to = new URL(link.href);
        to.searchParams.set("at", text);
        link.href = to.href;
      }
    });
  }
})();
