// What pages do beyond HTML and htmx: show the state of the connection, pause, and open events in a
// drawer. Nothing here parses HTML, so the page works under `require-trusted-types-for 'script'`.
(() => {
  "use strict";

  const times = almenaraTimes;
  const byId = (id) => document.getElementById(id);
  const body = document.body;
  const page = body.dataset.page;
  const isLive = body.hasAttribute("hx-ws:connect");
  const visibleEvents = Number(body.dataset.visibleEvents) || 100;
  // Rows that stay while the viewer has scrolled down and reads.
  const readingEvents = visibleEvents * 5;
  const pageAddress = location.pathname + location.search;
  const STALE_AFTER = 12_000;
  const GIVE_UP_AFTER = 20_000;
  const POLL_INTERVAL = 5_000;
  const POLL_AFTER = 10_000;
  const POLL_AFTER_LOSS = 30_000;
  const BLOCKED_HELP =
    "A proxy between this browser and Almenara does not pass WebSockets. Let it forward upgrade requests to /live.";
  // New rows at once that are highlighted at most, and from which on the list counts as fast.
  const HIGHLIGHTED_ROWS = 4;
  const FAST_ROWS = 12;

  // A navigation that is wider than the window scrolls; the current page must be visible in it.
  // The words beside it change its width.
  const current = document.querySelector(".top nav [aria-current]");
  if (current)
    new ResizeObserver(() => current.scrollIntoView({ block: "nearest", inline: "nearest" })).observe(current.parentElement);

  // The response to a form that must not be sent again is reloaded as the page with the form.
  const reload = document.querySelector("[data-reload]")?.dataset.reload;
  if (reload) history.replaceState(history.state, "", reload);

  // ---- state of the connection

  const indicator = byId("live");
  const words = byId("live-words");
  const counter = byId("live-clock");
  const retry = byId("live-retry");
  const badge = byId("panel-alert-badge");
  const title = document.title;
  let state = "static";
  let since = 0;
  let paused = false;
  let bufferedCount = 0;
  let hasMoreBuffered = false;

  const formatSince = () => times.formatSince(since);
  const formatDuration = (milliseconds) => {
    const seconds = Math.max(0, Math.floor(milliseconds / 1000));
    return seconds < 60 ? seconds + " s" : Math.floor(seconds / 60) + " min " + (seconds % 60) + " s";
  };

  const updateIndicator = () => {
    const displayed = paused && state === "live" ? "paused" : state;
    const text = {
      live: body.dataset.moment ? "playing" : "live",
      paused: "paused",
      connecting: "connecting",
      reconnecting: "reconnecting since " + formatSince(),
      stale: "no data since " + formatSince(),
      ended: "disconnected since " + formatSince() + "; reload the page",
      denied: "signed out; reload the page to sign in",
      polling: "WebSocket blocked; refreshing every " + POLL_INTERVAL / 1000 + " s",
    }[displayed];
    if (text === undefined) return;
    indicator.dataset.state = displayed === "denied" ? "ended" : displayed;
    body.dataset.connection = indicator.dataset.state;
    indicator.title = displayed === "polling" ? BLOCKED_HELP : "";
    if (words.textContent !== text) words.textContent = text;
    const counting = displayed === "reconnecting" || displayed === "stale";
    counter.textContent = counting ? formatDuration(Date.now() - since) : "";
    retry.hidden = displayed !== "reconnecting";
    const mark = counting || displayed === "ended" || displayed === "denied" ? "disconnected: " : "";
    const count = paused && bufferedCount ? "(" + bufferedCount + (hasMoreBuffered ? "+" : "") + ") " : "";
    const alerts = badge?.querySelector("b")?.textContent;
    const newTitle = mark + count + (alerts ? "▲" + alerts + " " : "") + title;
    if (document.title !== newTitle) document.title = newTitle;
  };

  const setState = (next) => {
    if (next !== state && !(next === "reconnecting" && state === "stale")) {
      if (next !== "live" && (state === "live" || since === 0)) since = Date.now();
    }
    state = next;
    if (next === "live") since = 0;
    updateIndicator();
  };

  document.addEventListener("almenara:zone", updateIndicator);
  if (badge) {
    new MutationObserver(updateIndicator).observe(badge, { childList: true, subtree: true, characterData: true });
  }

  // ---- the socket

  let connection = null;
  let lastMessageAt = 0;
  let hasHeartbeat = false;

  const eventRows = () => byId("event-rows");
  const newest = () => {
    let newestSequence = 0;
    for (const row of eventRows()?.querySelectorAll(".event[data-sequence]") ?? []) {
      newestSequence = Math.max(newestSequence, Number(row.dataset.sequence));
    }
    return newestSequence;
  };

  const updateResumePoint = () => {
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
    updateResumePoint();
    // hx-ws reconnects at once when a page becomes visible, and offers no other way to trigger it.
    document.dispatchEvent(new Event("visibilitychange"));
  };

  const send = (message) => {
    const socket = connection?.socket;
    if (socket?.readyState !== WebSocket.OPEN) return false;
    socket.send(JSON.stringify(message));
    return true;
  };

  if (isLive) {
    document.addEventListener("htmx:ws:before:connection", (event) => {
      // A page has one socket, on its body; any other was injected.
      if (event.target !== body) {
        event.preventDefault();
        return;
      }
      if (connection === null) setTimeout(() => hasConnected || startPolling(), POLL_AFTER);
      connection = event.detail.connection;
      updateResumePoint();
      if (state === "static") setState("connecting");
    });
    document.addEventListener("htmx:ws:after:connection", () => {
      lastMessageAt = Date.now();
      hasHeartbeat = false;
      hasConnected = true;
      setState("live");
    });
    document.addEventListener("htmx:ws:close", (event) => {
      const { code, reason } = event.detail;
      if (reason !== "closed") return;
      // hx-ws closes the socket of a hidden page and reopens it once the page is visible.
      if (document.hidden) setState("connecting");
      else if (code === 4401) setState("denied");
      else if (code === 1000 || code === 1008 || (code >= 4000 && code < 5000)) setState("ended");
      else if (state !== "polling") setState("reconnecting");
      if (!hasConnected && !document.hidden && ++failedAttempts >= 2) startPolling();
    });
    document.addEventListener("htmx:ws:before:message:incoming", (event) => {
      lastMessageAt = Date.now();
      if (state === "stale") setState("live");
      const { message } = event.detail;
      if (typeof message.data !== "string") return;
      if (message.data.startsWith('{"beat"')) {
        hasHeartbeat = true;
        return;
      }
      if (!paused) return;
      const envelope = JSON.parse(message.data);
      if (envelope.panel !== "events") return;
      event.preventDefault();
      if (envelope.arrived) bufferedCount += envelope.arrived;
      else hasMoreBuffered = true;
      updatePauseButton();
    });
    // Registered before the listener of hx-ws, so that hx-ws connects with the current position.
    document.addEventListener("visibilitychange", () => {
      if (document.hidden || connection === null) return;
      clearTimeout(connection.timer);
      updateResumePoint();
    });
    window.addEventListener("online", reconnect);
    retry?.addEventListener("click", reconnect);
  }

  const checkHeartbeat = () => {
    if (hasHeartbeat && state === "live" && Date.now() - lastMessageAt > STALE_AFTER) {
      since = lastMessageAt;
      state = "stale";
    }
    if (state === "stale" && Date.now() - lastMessageAt > GIVE_UP_AFTER) connection?.socket?.close();
    if (state === "reconnecting" || state === "stale") updateIndicator();
    if (state === "reconnecting" && Date.now() - since > POLL_AFTER_LOSS) startPolling();
  };

  // ---- polling, where a proxy blocks the WebSocket; hx-ws continues to try

  let hasConnected = false;
  let failedAttempts = 0;
  let polling = false;

  const fetchPage = async () => {
    try {
      const response = await fetch(pageAddress, { headers: { "HX-Request": "true" } });
      if (response.redirected && new URL(response.url).pathname === "/sign-in") return { denied: true };
      return { text: response.ok ? await response.text() : undefined };
    } catch {
      return {};
    }
  };

  const poll = async () => {
    const { denied, text } = await fetchPage();
    if (state === "live") return;
    if (denied || text === undefined) {
      setState(denied ? "denied" : "reconnecting");
      return;
    }
    setState("polling");
    for (const panel of document.querySelectorAll('main section > div[id^="panel-"]')) {
      await htmx.swap({ sourceElement: body, target: panel, swap: "outerMorph", select: "#" + panel.id, text });
    }
  };

  const startPolling = async () => {
    if (polling) return;
    polling = true;
    while (!["live", "ended", "denied"].includes(state)) {
      if (!document.hidden && !paused && following) await poll();
      await new Promise((resolve) => setTimeout(resolve, POLL_INTERVAL));
    }
    polling = false;
  };

  // ---- pause and follow

  const pause = byId("pause");
  const pauseWords = byId("pause-words");
  const follow = byId("follow");
  const toNewest = byId("to-newest");
  const toNewestWords = byId("to-newest-words");
  let following = true;
  let newAbove = 0;
  let lastFastUpdate = 0;

  // The style sheet then skips rendering rows below the fold.
  const updateRowRate = () => body.classList.toggle("fast-updates", following && Date.now() - lastFastUpdate < 2000);

  const updatePauseButton = () => {
    if (!pause) return;
    pause.setAttribute("aria-pressed", String(paused));
    const count = bufferedCount ? " · " + bufferedCount.toLocaleString("en") + (hasMoreBuffered ? "+" : "") + " new" : hasMoreBuffered ? " · new" : "";
    pauseWords.textContent = paused ? "Resume" + count : "Pause";
    updateIndicator();
  };

  const togglePause = () => {
    if (!pause) return;
    paused = !paused;
    if (!paused) {
      bufferedCount = 0;
      hasMoreBuffered = false;
      if (!send({ resume: newest() }) && state === "ended") location.reload();
    }
    updatePauseButton();
  };

  const updateFollowButton = () => {
    if (!follow) return;
    follow.setAttribute("aria-pressed", String(following));
    toNewest.hidden = following || newAbove === 0;
    toNewestWords.textContent = newAbove.toLocaleString("en") + (newAbove === 1 ? " new event" : " new events");
  };

  const setFollowing = (enabled) => {
    following = enabled;
    updateRowRate();
    if (enabled) {
      newAbove = 0;
      window.scrollTo({ top: 0, behavior: "instant" });
      trim();
    }
    updateFollowButton();
  };

  if (isLive && eventRows()) {
    if (pause) pause.hidden = false;
    if (follow) follow.hidden = false;
    pause?.addEventListener("click", togglePause);
    follow?.addEventListener("click", () => setFollowing(!following));
    toNewest?.addEventListener("click", () => setFollowing(true));
    window.addEventListener(
      "scroll",
      () => {
        const list = eventRows();
        if (!list || !follow) return;
        // Once the first rows are out of sight, the viewer reads: new rows must not move the list.
        const reading = list.getBoundingClientRect().top < -40;
        if (following && reading) {
          following = false;
          updateRowRate();
          updateFollowButton();
        } else if (!following && window.scrollY < 8) {
          setFollowing(true);
        }
      },
      { passive: true },
    );
  }

  // ---- new rows and lines

  let newestSeen = newest();

  const trim = () => {
    const list = eventRows();
    if (!list) return;
    const limit = following ? visibleEvents : readingEvents;
    const present = list.querySelectorAll(".event");
    for (let place = present.length - 1; place >= limit; place--) present[place].remove();
  };

  const processMutations = (mutations) => {
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
      const newRows = added.filter((row) => Number(row.dataset.sequence) > newestSeen);
      if (newRows.length >= FAST_ROWS) {
        lastFastUpdate = Date.now();
        updateRowRate();
      }
      if (newRows.length <= HIGHLIGHTED_ROWS) for (const row of newRows) row.classList.add("new");
      newestSeen = Math.max(newestSeen, newest());
      trim();
      if (!following) {
        newAbove += newRows.length;
        updateFollowButton();
      }
      markOpenRow();
    }
    times.refresh();
    observer.takeRecords();
  };
  const observer = new MutationObserver(processMutations);
  observer.observe(byId("main"), { childList: true, subtree: true, characterData: true });

  // ---- the drawer: one event beside the list

  const drawer = byId("drawer");
  const drawerBody = byId("drawer-body");
  let openSequence = 0;
  let requestedSequence = 0;
  let loading = false;
  let selectedSequence = 0;

  const markOpenRow = () => {
    for (const row of document.querySelectorAll(".event.open")) row.classList.remove("open");
    if (openSequence) byId("e" + openSequence)?.classList.add("open");
  };

  const showLoadError = (sequence) => {
    const message = document.createElement("p");
    message.className = "alarm";
    message.role = "alert";
    message.textContent = "Could not load event " + sequence + ". Almenara does not respond, or your session has ended.";
    const link = document.createElement("a");
    link.className = "button";
    link.href = "/events/" + sequence;
    link.textContent = "Open event page";
    drawerBody.replaceChildren(message, link);
  };

  const load = async (sequence) => {
    requestedSequence = sequence;
    if (loading) return;
    loading = true;
    try {
      while (openSequence !== requestedSequence && requestedSequence) {
        const target = requestedSequence;
        const parameters = new URLSearchParams(location.pathname === "/events" ? location.search : pageAddress.split("?")[1]);
        parameters.delete("after");
        parameters.delete("before");
        parameters.set("part", "detail");
        // htmx reports no failure to the caller: check whether the event is in the drawer afterwards.
        await htmx.ajax("GET", "/events/" + target + "?" + parameters, { source: drawer, target: drawerBody, swap: "innerHTML" });
        if (drawerBody.querySelector('[data-sequence="' + target + '"]')) openSequence = target;
        else if (requestedSequence === target) {
          openSequence = 0;
          showLoadError(target);
          break;
        }
      }
    } finally {
      loading = false;
    }
    if (!requestedSequence) return;
    const first = drawer.hidden;
    drawer.hidden = false;
    body.classList.add("drawer-open");
    drawer.scrollTop = 0;
    markOpenRow();
    const row = byId("e" + openSequence);
    row?.scrollIntoView({ block: "nearest" });
    if (first) drawer.focus({ preventScroll: true });
  };

  const open = (sequence) => {
    const address = "/events/" + sequence;
    if (history.state?.drawer) history.replaceState({ drawer: sequence }, "", address);
    else history.pushState({ drawer: sequence }, "", address);
    selectedSequence = sequence;
    void load(sequence);
  };

  const closeDrawer = () => {
    requestedSequence = 0;
    openSequence = 0;
    drawer.hidden = true;
    body.classList.remove("drawer-open");
    markOpenRow();
    byId("e" + selectedSequence)?.querySelector("a")?.focus({ preventScroll: true });
  };

  const close = () => {
    if (history.state?.drawer) history.back();
    else closeDrawer();
  };

  const plainClick = (event) => event.button === 0 && !(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey);

  // A panel changes its order or span on the page that it is on, with the filters of that page;
  // without JavaScript the link leads to the panel alone.
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("th a.sort, a[data-panel-option]");
    if (!link || !plainClick(event) || !(page === "overview" || page.startsWith("dashboard"))) return;
    event.preventDefault();
    const address = new URL(location.href);
    const name = link.dataset.panelOption ?? "sort";
    address.searchParams.set(name, new URL(link.href).searchParams.get(name));
    // A reader who has scrolled to the panel stays there.
    address.hash = (scrollY > 0 && link.closest("section[id]")?.id) || "";
    location.assign(address);
  });

  if (drawer) {
    document.addEventListener("click", (event) => {
      const link = event.target.closest?.("#event-rows .event-link, #drawer a[data-open], .story-lanes a[data-open], .timeline .step-body");
      if (!link || !plainClick(event) || event.defaultPrevented) return;
      event.preventDefault();
      open(Number(new URL(link.href).pathname.split("/").pop()));
    });
    byId("drawer-close").addEventListener("click", close);
    window.addEventListener("popstate", (event) => {
      if (event.state?.drawer) void load(event.state.drawer);
      else if (!drawer.hidden) closeDrawer();
    });
  } else {
    // After a reload of an event opened in the drawer, Back leads to the list: load it.
    // A zoom of this page is undone in place.
    window.addEventListener("popstate", (event) => {
      if (event.state?.zoom !== performance.timeOrigin) location.reload();
    });
  }

  // ---- keyboard shortcuts

  const help = byId("help");
  const helpOpen = byId("help-open");
  const keysOn = byId("keys-on");
  keysOn.checked = times.stored("almenara.keys") !== "off";
  keysOn.addEventListener("change", () => times.store("almenara.keys", keysOn.checked ? "on" : "off"));
  helpOpen.hidden = false;
  helpOpen.addEventListener("click", () => help.showModal());

  const selectRow = (offset) => {
    const links = [...document.querySelectorAll("#event-rows .event-link, #panel-failures .event-link, .timeline .step-body")];
    if (!links.length) return;
    const inDrawer = drawer && !drawer.hidden;
    let position = inDrawer ? links.findIndex((link) => link.parentElement.id === "e" + openSequence) : links.indexOf(document.activeElement);
    // Rows are added and removed: find the row that was selected last.
    if (position < 0 && selectedSequence) position = links.findIndex((link) => link.parentElement.dataset.sequence === String(selectedSequence));
    const next = links[Math.min(Math.max(position + offset, 0), links.length - 1)];
    if (inDrawer) {
      open(Number(next.parentElement.dataset.sequence));
      return;
    }
    next.focus();
    next.scrollIntoView({ block: "nearest" });
    selectedSequence = Number(next.parentElement.dataset.sequence) || 0;
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
    else if (event.key === "j") selectRow(1);
    else if (event.key === "k") selectRow(-1);
    else if (event.key === "t") times.toggleAges();
    else if (event.key === "z") times.toggleZone();
    else if (event.key === "c" && byId("time-control")) {
      const summary = byId("time-control").querySelector("summary");
      summary.focus();
      summary.click();
    }
    else if (event.key === "?") help.showModal();
    else return;
    event.preventDefault();
  });

  times.refresh();
  observer.takeRecords();
  setInterval(() => {
    times.refresh();
    observer.takeRecords();
    checkHeartbeat();
    updateRowRate();
  }, 1000);
  window.addEventListener("pageshow", (event) => {
    // A page from the back-forward cache has a closed socket and old rows.
    if (event.persisted && page !== "event") location.reload();
  });
})();
