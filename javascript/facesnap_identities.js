// Deleting a saved identity asks first.

(function (facesnap) {
    "use strict";

    /** The name, or null where it is to be kept. "None" is for the server to answer. */
    facesnap.confirmDeletion = (name) => {
        if (!name || name === "None") return "None";
        return confirm(`Delete the saved identity "${name}" from this machine? This cannot be undone.`) ? name : null;
    };
})((window.facesnap = window.facesnap || {}));
