/** A value that changes more often than a screen: readers are told at most once per animation frame. */
export type FrameStore<T> = {
  get(): T;
  /** Replaces the value; readers hear of it in the next frame. */
  set(value: T): void;
  subscribe(listener: () => void): () => void;
};

/** Calls back once, soon. */
export type Schedule = (callback: () => void) => void;

/**
 * @param schedule when readers are told; by default the next frame, or a second later in a hidden tab, where there are no frames.
 */
export function createFrameStore<T>(initial: T, schedule: Schedule = nextFrame): FrameStore<T> {
  let current = initial;
  let shown = initial;
  let pending = false;
  const listeners = new Set<() => void>();
  function flush(): void {
    pending = false;
    if (shown === current) return;
    shown = current;
    for (const listener of [...listeners]) listener();
  }
  return {
    get: () => shown,
    set(value) {
      current = value;
      if (pending) return;
      pending = true;
      schedule(flush);
    },
    subscribe(listener) {
      listeners.add(listener);
      return () => {
        listeners.delete(listener);
      };
    },
  };
}

function nextFrame(callback: () => void): void {
  let frame = 0;
  const run = () => {
    cancelAnimationFrame(frame);
    clearTimeout(timer);
    callback();
  };
  const timer = setTimeout(run, 1000);
  frame = requestAnimationFrame(run);
}
