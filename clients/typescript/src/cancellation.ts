/** Cancellation by several signals: that of the caller, and that of the closed client. */

/**
 * Calls `cancel` once one of the signals is aborted, at once if one already is.
 *
 * Unlike AbortSignal.any, this leaves nothing behind on a signal that outlives many calls.
 *
 * @returns a function that stops listening
 */
export function onAbort(signals: readonly AbortSignal[], cancel: () => void): () => void {
  if (signals.some((each) => each.aborted)) {
    cancel();
    return () => {};
  }
  signals.forEach((each) => each.addEventListener("abort", cancel));
  return () => signals.forEach((each) => each.removeEventListener("abort", cancel));
}

/** Waits for `ms` milliseconds, or until one of the signals is aborted. */
export function sleep(ms: number, signals: readonly AbortSignal[]): Promise<void> {
  return new Promise((resolve) => {
    if (signals.some((each) => each.aborted)) {
      resolve();
      return;
    }
    const timer = setTimeout(end, ms);
    const stop = onAbort(signals, end);
    function end(): void {
      clearTimeout(timer);
      stop();
      resolve();
    }
  });
}

/**
 * Returns what `result` resolves to.
 *
 * @throws what `explain` returns, after `timeoutMs` milliseconds, Infinity for no limit
 * @throws DOMException with the name AbortError, once one of the signals is aborted
 */
export async function waitFor<T>(
  result: Promise<T>,
  { timeoutMs, signals }: { timeoutMs: number; signals: readonly AbortSignal[] },
  explain: () => Error,
): Promise<T> {
  if (timeoutMs === Infinity && signals.length === 0) {
    return result;
  }
  result.catch(() => {}); // has no other reader if the time passes first
  let timer: NodeJS.Timeout | undefined;
  let stop = (): void => {};
  const ended = new Promise<never>((_, reject) => {
    if (timeoutMs !== Infinity) {
      timer = setTimeout(() => reject(explain()), timeoutMs);
    }
    stop = onAbort(signals, () => reject(new DOMException("aborted", "AbortError")));
  });
  try {
    return await Promise.race([result, ended]);
  } finally {
    clearTimeout(timer);
    stop();
  }
}
