// Deleting a saved identity: the person is asked first.
(() => {
    // The name, or null where its owner would rather keep it. "None" is for the server to answer.
    window.facesnapConfirmed = (name) => {
        if (!name || name === "None") return "None";
        return confirm(`Delete the saved identity "${name}" from this machine? This cannot be undone.`) ? name : null;
    };
})();
