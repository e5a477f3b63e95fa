// What a page does beyond plain HTML and htmx: it knows how live it is, holds back while paused,
// and opens events in place. Nothing here writes markup, so Trusted Types have nothing to forbid.
(() => {
  "use strict";

  const byId = (id) => document.getElementById(id);
  const body = document.body;
  const page = body.dataset.page;
  const isLive = body.hasAttribute("hx-ws:connect");
  const visibleEvents = Number(body.dataset.visibleEvents) || 100;
  // Who reads further down keeps what they read; there is an end to that too.
  const readingEvents = visibleEvents * 5;
  const STALE_AFTER = 12_000;
  const GIVE_UP_AFTER = 20_000;
  const ANIMATED = 4;
  // Rows at once from which on nobody can read them all.
  const RUSH = 12;

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
      // A browser that stores nothing still shows everything.
    }
  };

  // The reader's clock may be wrong; ages are by the server's.
  const drift = Number(body.dataset.moment) / 1000 - Date.now();
  const skew = Math.abs(drift) > 2000 ? drift : 0;
  const serverNow = () => Date.now() + skew;

  // ---- times

  let ages = stored("almenara.times") !== "clock";
  const UNITS = [[86_400_000, "d"], [3_600_000, "h"], [60_000, "m"], [1000, "s"]];

  const age = (moment) => {
    const passed = serverNow() - moment;
    const length = Math.abs(passed);
    if (length < 1000) return "now";
    if (length > 365 * 86_400_000) return new Date(moment).toISOString().slice(0, 10);
    const [unit, letter] = UNITS.find(([unit]) => length >= unit);
    const text = Math.floor(length / unit) + letter;
    return passed < 0 ? "in " + text : text;
  };

  const refreshTimes = () => {
    for (const time of document.querySelectorAll("time:not([data-absolute])")) {
      if (time.closest(".detail")) continue;
      const moment = Date.parse(time.dateTime);
      if (Number.isNaN(moment)) continue;
      const text = ages ? age(moment) : time.title.slice(11, 23);
      if (time.textContent !== text) time.textContent = text;
    }
  };

  const toggleTimes = () => {
    ages = !ages;
    store("almenara.times", ages ? "ages" : "clock");
    body.classList.toggle("clocks", !ages);
    refreshTimes();
  };

  // ---- how live this page is

  const indicator = byId("live");
  const words = byId("live-words");
  const counter = byId("live-clock");
  const retry = byId("live-retry");
  const title = document.title;
  let state = "still";
  let since = 0;
  let paused = false;
  let held = 0;
  let heldMore = false;

  const clockText = (moment) => new Date(moment).toTimeString().slice(0, 8);
  const lasting = (milliseconds) => {
    const seconds = Math.max(0, Math.floor(milliseconds / 1000));
    return seconds < 60 ? seconds + " s" : Math.floor(seconds / 60) + " min " + (seconds % 60) + " s";
  };

  const showState = () => {
    const shown = paused && state === "live" ? "paused" : state;
    const text = {
      live: "live",
      paused: "paused",
      connecting: "connecting",
      away: "reconnecting since " + clockText(since),
      stale: "no word since " + clockText(since),
      ended: "not live since " + clockText(since) + "; reload the page",
      denied: "signed out; reload the page to sign in",
    }[shown];
    if (text === undefined) return;
    indicator.dataset.state = shown === "denied" ? "ended" : shown;
    if (words.textContent !== text) words.textContent = text;
    const counting = shown === "away" || shown === "stale";
    counter.textContent = counting ? lasting(Date.now() - since) : "";
    retry.hidden = shown !== "away";
    const mark = counting || shown === "ended" || shown === "denied" ? "not live: " : "";
    const count = paused && held ? "(" + held + (heldMore ? "+" : "") + ") " : "";
    const wanted = mark + count + title;
    if (document.title !== wanted) document.title = wanted;
  };

  const become = (next) => {
    if (next !== state && !(next === "away" && state === "stale")) {
      if (next !== "live" && (state === "live" || since === 0)) since = Date.now();
    }
    state = next;
    if (next === "live") since = 0;
    showState();
  };

  // ---- the socket

  let connection = null;
  let lastWord = 0;
  let beats = false;

  const rows = () => byId("event-rows");
  const newest = () => {
    let found = 0;
    for (const row of rows()?.querySelectorAll(".event[data-sequence]") ?? []) {
      found = Math.max(found, Number(row.dataset.sequence));
    }
    return found;
  };

  const aim = () => {
    if (connection === null) return;
    const url = new URL(connection.url);
    const after = newest();
    if (after > 0) url.searchParams.set("after", String(after));
    else url.searchParams.delete("after");
    connection.url = url.href;
  };

  const reconnect = () => {
    if (connection === null) return;
    clearTimeout(connection.timer);
    connection.attempt = 0;
    aim();
    // hx-ws connects at once when a page comes back into view, and offers no other way.
    document.dispatchEvent(new Event("visibilitychange"));
  };

  const say = (message) => {
    const socket = connection?.socket;
    if (socket?.readyState !== WebSocket.OPEN) return false;
    socket.send(JSON.stringify(message));
    return true;
  };

  if (isLive) {
    document.addEventListener("htmx:ws:before:connection", (event) => {
      // There is one socket a page; whatever else asks for one was put in by someone else.
      if (event.target !== body) {
        event.preventDefault();
        return;
      }
      connection = event.detail.connection;
      aim();
      if (state === "still") become("connecting");
    });
    document.addEventListener("htmx:ws:after:connection", () => {
      lastWord = Date.now();
      beats = false;
      become("live");
    });
    document.addEventListener("htmx:ws:close", (event) => {
      const { code, reason } = event.detail;
      if (reason !== "closed") return;
      // A page nobody sees closes its socket and opens it again when it is looked at.
      if (document.hidden) become("connecting");
      else if (code === 4401) become("denied");
      else if (code === 1000 || code === 1008 || (code >= 4000 && code < 5000)) become("ended");
      else become("away");
    });
    document.addEventListener("htmx:ws:before:message:incoming", (event) => {
      lastWord = Date.now();
      if (state === "stale") become("live");
      const { message } = event.detail;
      if (typeof message.data !== "string") return;
      if (message.data.startsWith('{"beat"')) {
        beats = true;
        return;
      }
      if (!paused) return;
      const envelope = JSON.parse(message.data);
      if (envelope.panel !== "events") return;
      event.preventDefault();
      if (envelope.arrived) held += envelope.arrived;
      else heldMore = true;
      showPause();
    });
    // Registered before hx-ws's own listener, so that it connects to where this page stands now.
    document.addEventListener("visibilitychange", () => {
      if (document.hidden || connection === null) return;
      clearTimeout(connection.timer);
      aim();
    });
    window.addEventListener("online", reconnect);
    retry?.addEventListener("click", reconnect);
  }

  const watch = () => {
    if (beats && state === "live" && Date.now() - lastWord > STALE_AFTER) {
      since = lastWord;
      state = "stale";
    }
    if (state === "stale" && Date.now() - lastWord > GIVE_UP_AFTER) connection?.socket?.close();
    if (state === "away" || state === "stale") showState();
  };

  // ---- pause and follow

  const pause = byId("pause");
  const pauseWords = byId("pause-words");
  const follow = byId("follow");
  const toNewest = byId("to-newest");
  const toNewestWords = byId("to-newest-words");
  let following = true;
  let above = 0;
  let rushedAt = 0;

  // The style sheet then leaves out what is below the fold.
  const showRush = () => body.classList.toggle("rushed", following && Date.now() - rushedAt < 2000);

  const showPause = () => {
    if (!pause) return;
    pause.setAttribute("aria-pressed", String(paused));
    const count = held ? " · " + held.toLocaleString("en") + (heldMore ? "+" : "") + " new" : heldMore ? " · new" : "";
    pauseWords.textContent = paused ? "Resume" + count : "Pause";
    showState();
  };

  const togglePause = () => {
    if (!pause) return;
    paused = !paused;
    if (!paused) {
      held = 0;
      heldMore = false;
      if (!say({ resume: newest() }) && state === "ended") location.reload();
    }
    showPause();
  };

  const showFollow = () => {
    if (!follow) return;
    follow.setAttribute("aria-pressed", String(following));
    toNewest.hidden = following || above === 0;
    toNewestWords.textContent = above.toLocaleString("en") + (above === 1 ? " new event" : " new events");
  };

  const setFollowing = (wanted) => {
    following = wanted;
    showRush();
    if (wanted) {
      above = 0;
      window.scrollTo({ top: 0, behavior: "instant" });
      trim();
    }
    showFollow();
  };

  if (isLive && rows()) {
    if (pause) pause.hidden = false;
    if (follow) follow.hidden = false;
    pause?.addEventListener("click", togglePause);
    follow?.addEventListener("click", () => setFollowing(!following));
    toNewest?.addEventListener("click", () => setFollowing(true));
    window.addEventListener(
      "scroll",
      () => {
        const list = rows();
        if (!list || !follow) return;
        // Once the first rows are out of sight, somebody reads and must not be pulled away.
        const reading = list.getBoundingClientRect().top < -40;
        if (following && reading) {
          following = false;
          showRush();
          showFollow();
        } else if (!following && window.scrollY < 8) {
          setFollowing(true);
        }
      },
      { passive: true },
    );
  }

  // ---- what came in

  let seen = newest();

  const trim = () => {
    const list = rows();
    if (!list) return;
    const limit = following ? visibleEvents : readingEvents;
    const present = list.querySelectorAll(".event");
    for (let place = present.length - 1; place >= limit; place--) present[place].remove();
  };

  const settle = (mutations) => {
    const added = [];
    for (const mutation of mutations) {
      const limit = Number(mutation.target.dataset?.limit);
      if (limit) while (mutation.target.childElementCount > limit) mutation.target.firstElementChild.remove();
      for (const node of mutation.addedNodes) {
        if (node.nodeType !== Node.ELEMENT_NODE || !node.id?.startsWith("e")) continue;
        if (node.id === "event-rows") added.push(...node.querySelectorAll(".event"));
        else if (node.matches("#event-rows > .event")) added.push(node);
      }
    }
    if (added.length) {
      const fresh = added.filter((row) => Number(row.dataset.sequence) > seen);
      if (fresh.length >= RUSH) {
        rushedAt = Date.now();
        showRush();
      }
      if (fresh.length <= ANIMATED) for (const row of fresh) row.classList.add("fresh");
      seen = Math.max(seen, newest());
      trim();
      if (!following) {
        above += fresh.length;
        showFollow();
      }
      markShown();
    }
    refreshTimes();
    observer.takeRecords();
  };
  const observer = new MutationObserver(settle);
  observer.observe(byId("main"), { childList: true, subtree: true, characterData: true });

  // ---- one event, in place

  const drawer = byId("drawer");
  const drawerBody = byId("drawer-body");
  const listAddress = location.pathname + location.search;
  let shown = 0;
  let wanted = 0;
  let loading = false;
  let lastRow = 0;

  const markShown = () => {
    for (const row of document.querySelectorAll(".event.shown")) row.classList.remove("shown");
    if (shown) byId("e" + shown)?.classList.add("shown");
  };

  const absent = (sequence) => {
    const said = document.createElement("p");
    said.className = "alarm";
    said.role = "alert";
    said.textContent = "Event " + sequence + " did not come: Almenara does not answer, or you are signed out.";
    const way = document.createElement("a");
    way.className = "button";
    way.href = "/events/" + sequence;
    way.textContent = "Open its page";
    drawerBody.replaceChildren(said, way);
  };

  const load = async (sequence) => {
    wanted = sequence;
    if (loading) return;
    loading = true;
    try {
      while (shown !== wanted && wanted) {
        const target = wanted;
        const parameters = new URLSearchParams(location.pathname === "/events" ? location.search : listAddress.split("?")[1]);
        parameters.delete("after");
        parameters.delete("before");
        parameters.set("part", "detail");
        // What fails is not told by htmx; what stands there afterwards tells.
        await htmx.ajax("GET", "/events/" + target + "?" + parameters, { source: drawer, target: drawerBody, swap: "innerHTML" });
        if (drawerBody.querySelector('[data-sequence="' + target + '"]')) shown = target;
        else if (wanted === target) {
          shown = 0;
          absent(target);
          break;
        }
      }
    } finally {
      loading = false;
    }
    if (!wanted) return;
    const first = drawer.hidden;
    drawer.hidden = false;
    body.classList.add("drawn");
    drawer.scrollTop = 0;
    markShown();
    const row = byId("e" + shown);
    row?.scrollIntoView({ block: "nearest" });
    if (first) drawer.focus({ preventScroll: true });
  };

  const open = (sequence) => {
    const address = "/events/" + sequence;
    if (history.state?.drawer) history.replaceState({ drawer: sequence }, "", address);
    else history.pushState({ drawer: sequence }, "", address);
    lastRow = sequence;
    void load(sequence);
  };

  const hide = () => {
    wanted = 0;
    shown = 0;
    drawer.hidden = true;
    body.classList.remove("drawn");
    markShown();
    byId("e" + lastRow)?.querySelector("a")?.focus({ preventScroll: true });
  };

  const close = () => {
    if (history.state?.drawer) history.back();
    else hide();
  };

  const plainClick = (event) => event.button === 0 && !(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey);

  if (drawer) {
    document.addEventListener("click", (event) => {
      const link = event.target.closest?.("#event-rows .event-link, #drawer a[data-open]");
      if (!link || !plainClick(event)) return;
      event.preventDefault();
      open(Number(new URL(link.href).pathname.split("/").pop()));
    });
    byId("drawer-close").addEventListener("click", close);
    window.addEventListener("popstate", (event) => {
      if (event.state?.drawer) void load(event.state.drawer);
      else if (!drawer.hidden) hide();
    });
  } else {
    // An event that was opened in place and then reloaded has the list one step back.
    window.addEventListener("popstate", () => location.reload());
  }

  // ---- keys

  const help = byId("help");
  const helpOpen = byId("help-open");
  const keysOn = byId("keys-on");
  keysOn.checked = stored("almenara.keys") !== "off";
  keysOn.addEventListener("change", () => store("almenara.keys", keysOn.checked ? "on" : "off"));
  helpOpen.hidden = false;
  helpOpen.addEventListener("click", () => help.showModal());

  const step = (by) => {
    const links = [...document.querySelectorAll("#event-rows .event-link, #panel-failures .event-link, .timeline .step-body")];
    if (!links.length) return;
    const reading = drawer && !drawer.hidden;
    let place = reading ? links.findIndex((link) => link.parentElement.id === "e" + shown) : links.indexOf(document.activeElement);
    // Rows come and go; the place is that of the row last stood on.
    if (place < 0 && lastRow) place = links.findIndex((link) => link.parentElement.dataset.sequence === String(lastRow));
    const next = links[Math.min(Math.max(place + by, 0), links.length - 1)];
    if (reading) {
      open(Number(next.parentElement.dataset.sequence));
      return;
    }
    next.focus();
    next.scrollIntoView({ block: "nearest" });
    lastRow = Number(next.parentElement.dataset.sequence) || 0;
  };

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    const target = event.target;
    const typing = target.closest?.("input, select, textarea, [contenteditable]");
    if (event.key === "Escape") {
      if (typing) target.blur();
      else if (drawer && !drawer.hidden) close();
      return;
    }
    if (typing || !keysOn.checked) return;
    if (event.key === "/") {
      const filter = byId("filter-text");
      if (filter) {
        filter.focus();
        filter.select();
      } else location.assign("/events");
    } else if (event.key === " ") {
      if (!pause || pause.hidden || target.closest?.("button, summary")) return;
      togglePause();
    } else if (event.key === "f" && follow && !follow.hidden) setFollowing(!following);
    else if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
    else if (event.key === "t") toggleTimes();
    else if (event.key === "?") help.showModal();
    else return;
    event.preventDefault();
  });

  body.classList.toggle("clocks", !ages);
  refreshTimes();
  observer.takeRecords();
  setInterval(() => {
    refreshTimes();
    observer.takeRecords();
    watch();
    showRush();
  }, 1000);
  window.addEventListener("pageshow", (event) => {
    // A page from the back-forward cache has a dead socket and old rows.
    if (event.persisted && page !== "event") location.reload();
  });
})();
