// What the controls hold, kept for this tab of the browser until it is closed: gradio loads the page anew when a
// connection was lost, and would show its defaults. The name and what is done (keep or take) come with the call.
(name, deed, values) => {
  const key = `accel ${name}`;
  try {
    if (deed === "keep") sessionStorage.setItem(key, JSON.stringify(values));
    const kept = JSON.parse(sessionStorage.getItem(key));
    if (deed === "take" && Array.isArray(kept) && kept.length === values.length) return kept;
  } catch { /* a browser without storage keeps nothing */ }
  return values;
}
