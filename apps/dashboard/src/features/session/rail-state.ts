export const railKey = "muster-rail";

/**
 * Runs before the first paint, so that a pinned rail does not push the page aside a moment later. Written without quotation marks and
 * ampersands, which React would escape.
 */
export const railScript = `try{if(localStorage.getItem(\`${railKey}\`)===\`pinned\`)document.documentElement.dataset.rail=\`pinned\`}catch{}`;

export function railPinned(): boolean {
  return document.documentElement.dataset.rail === "pinned";
}

/** Pins the rail open or lets it go, here and for the next visit. */
export function pinRail(pinned: boolean): void {
  if (pinned) document.documentElement.dataset.rail = "pinned";
  else delete document.documentElement.dataset.rail;
  try {
    if (pinned) localStorage.setItem(railKey, "pinned");
    else localStorage.removeItem(railKey);
  } catch {} // a browser that keeps nothing for this page forgets it with the page
}
