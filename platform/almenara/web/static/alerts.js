// Notifications of the browser and a sound when more alerts need attention, where they are switched
// on. One tab of several acts.
(() => {
  "use strict";

  const badge = document.getElementById("panel-alert-badge");
  if (!badge) return;
  const QUIET_FOR = 2000;
  const read = (key) => {
    try {
      return localStorage.getItem(key) === "on";
    } catch {
      return false;
    }
  };
  const write = (key, value) => {
    try {
      localStorage.setItem(key, value ? "on" : "off");
    } catch {
      // Storage is off: the switch lasts as long as the page.
    }
  };
  const count = () => Number(badge.querySelector("b")?.textContent.replace(/\D/g, "")) || 0;
  const isOn = { notify: read("almenara-notify"), sound: read("almenara-sound") };
  let known = count();

  const play = () => {
    const context = new AudioContext();
    const gain = context.createGain();
    gain.connect(context.destination);
    gain.gain.setValueAtTime(0.15, context.currentTime);
    gain.gain.exponentialRampToValueAtTime(0.001, context.currentTime + 0.6);
    for (const [frequency, delay] of [[660, 0], [880, 0.18]]) {
      const tone = context.createOscillator();
      tone.frequency.value = frequency;
      tone.connect(gain);
      tone.start(context.currentTime + delay);
      tone.stop(context.currentTime + 0.6);
    }
    setTimeout(() => context.close(), 1000);
  };

  const show = (number) => {
    const text = number === 1 ? "1 alert needs attention" : number + " alerts need attention";
    const notification = new Notification("Almenara", { body: text, tag: "almenara-alerts", renotify: true });
    notification.addEventListener("click", () => {
      window.focus();
      location.assign("/alerts");
    });
  };

  const announce = (number) => {
    if (isOn.sound) play();
    if (isOn.notify && globalThis.Notification?.permission === "granted") show(number);
  };

  const update = () => {
    const number = count();
    const isMore = number > known;
    known = number;
    if (!isMore || !(isOn.notify || isOn.sound)) return;
    if (!navigator.locks) {
      announce(number);
      return;
    }
    navigator.locks.request("almenara-alerts", { ifAvailable: true }, (lock) => {
      if (lock === null) return undefined;
      announce(number);
      return new Promise((resolve) => setTimeout(resolve, QUIET_FOR));
    });
  };

  new MutationObserver(update).observe(badge, { childList: true, subtree: true, characterData: true });

  const connect = (id, name, allow) => {
    const button = document.getElementById(id);
    if (!button) return;
    const display = () => button.setAttribute("aria-pressed", String(isOn[name]));
    button.hidden = false;
    display();
    button.addEventListener("click", async () => {
      isOn[name] = !isOn[name] && (await allow());
      write("almenara-" + name, isOn[name]);
      display();
    });
  };

  // Notifications exist in secure contexts alone: https, or this machine.
  if (globalThis.Notification) {
    if (Notification.permission !== "granted") isOn.notify = false;
    connect("notify-switch", "notify", async () => (await Notification.requestPermission()) === "granted");
  }
  connect("sound-switch", "sound", async () => {
    play();
    return true;
  });
})();
