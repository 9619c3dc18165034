// The consent notice: once understood it stays away, also when the page that the server made at its start is reloaded.

(function (facesnap) {
    "use strict";

    const KEY = "facesnap-notice";

    const notices = () => [...gradioApp().querySelectorAll(".facesnap-consent")];
    const versionOf = (notice) => notice.querySelector("[data-version]")?.dataset.version;

    facesnap.dismissNotice = () => {
        for (const notice of notices()) {
            localStorage.setItem(KEY, versionOf(notice));
            notice.style.display = "none";
        }
        return [];
    };

    onUiLoaded(() => {
        for (const notice of notices()) {
            if (localStorage.getItem(KEY) === versionOf(notice)) notice.style.display = "none";
        }
    });
})((window.facesnap = window.facesnap || {}));
