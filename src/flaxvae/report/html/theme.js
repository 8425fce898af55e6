// The theme that was chosen last, before anything is drawn. A page from disk may have no storage.
try {
  const chosen = localStorage.getItem("flaxvae-theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch { /* the system's theme */ }
