/** A connection that the first call opens, and that follows the addresses of several names. */

import { isDeepStrictEqual } from "node:util";

import type { Client } from "@grpc/grpc-js";

import { waitFor } from "./cancellation.js";
import { mayMove, openChannel, planChannel, type ChannelPlan, type Tls } from "./channel.js";
import { ClientClosed, DeadlineExceeded } from "./errors.js";

// gRPC resolves a single name again by itself. Of several names, this module does.
const RESOLVE_INTERVAL_MS = 30_000;
// Calls to servers that are down ask for a lookup each.
const SHORTEST_RESOLVE_INTERVAL_MS = 1_000;
// How long a call waits for new addresses after another call has reached no server. If the names
// cannot be resolved now, the addresses that are known may work again.
const RESOLVE_WAIT_MS = 1_000;
// Calls that are answered outlive their channel, but those that still connect do not.
const CLOSE_DELAY_MS = 60_000;

/** How long a call may wait for its channel. */
export interface Patience {
  /** Milliseconds; Infinity for no limit. */
  readonly timeoutMs: number;
  /** Signals that end the call. */
  readonly signals: readonly AbortSignal[];
}

/** A channel to one or several servers. */
export class Connection {
  readonly #targets: readonly string[];
  readonly #tls: Tls | undefined;
  readonly #replaced = new Map<Client, NodeJS.Timeout>();
  #channel: Client | undefined;
  #plan: ChannelPlan | undefined;
  #opening: Promise<void> | undefined;
  #plannedAt = -Infinity;
  #unreachableAt = -Infinity;
  #isClosed = false;

  constructor(targets: readonly string[], tls: Tls | undefined) {
    this.#targets = targets;
    this.#tls = tls;
  }

  /**
   * Returns the channel. Do not keep it: a later call may need another one.
   *
   * @throws ClientClosed after close()
   * @throws DeadlineExceeded if the names are not resolved in time
   * @throws Unavailable if no host name resolves
   */
  async open(patience: Patience): Promise<Client> {
    if (this.#channel === undefined) {
      await waitFor(this.#startOpening(), patience, () => {
        const names = this.#targets.join(", ");
        const ms = Math.max(Math.round(patience.timeoutMs), 0);
        return new DeadlineExceeded(`${names}: not resolved within ${ms} ms`);
      });
    } else if (mayMove(this.#targets)) {
      await this.#follow(patience);
    }
    if (this.#channel === undefined) {
      throw new ClientClosed();
    }
    return this.#channel;
  }

  /** Notes that a call has reached no server, so that the next one resolves the names again. */
  noteUnreachable(): void {
    this.#unreachableAt = performance.now();
  }

  /** Closes the channel. Calls that are answered go on. */
  close(): void {
    this.#isClosed = true;
    this.#channel?.close();
    this.#channel = undefined;
    for (const [channel, timer] of this.#replaced) {
      clearTimeout(timer);
      channel.close();
    }
    this.#replaced.clear();
  }

  /** Resolves the names again if it is time to, or if a call has reached no server. */
  async #follow({ timeoutMs, signals }: Patience): Promise<void> {
    const ageMs = performance.now() - this.#plannedAt;
    if (this.#unreachableAt > this.#plannedAt) {
      if (ageMs >= SHORTEST_RESOLVE_INTERVAL_MS) {
        const patience = { timeoutMs: Math.min(timeoutMs, RESOLVE_WAIT_MS), signals };
        await waitFor(this.#startOpening(), patience, () => new Error("overdue")).catch(() => {});
      }
    } else if (ageMs >= RESOLVE_INTERVAL_MS) {
      this.#startOpening().catch(() => {}); // in the background: the channel works
    }
  }

  #startOpening(): Promise<void> {
    this.#opening ??= this.#open().finally(() => {
      this.#opening = undefined;
    });
    return this.#opening;
  }

  /** Opens a channel, unless the open one has the same addresses. */
  async #open(): Promise<void> {
    const began = performance.now();
    let plan: ChannelPlan;
    try {
      plan = await planChannel(this.#targets, this.#tls);
    } finally {
      this.#plannedAt = began;
    }
    if (this.#isClosed) {
      throw new ClientClosed();
    }
    if (this.#channel !== undefined && isDeepStrictEqual(plan, this.#plan)) {
      return;
    }
    const before = this.#channel;
    this.#channel = openChannel(plan);
    this.#plan = plan;
    if (before !== undefined) {
      this.#closeLater(before);
    }
  }

  #closeLater(channel: Client): void {
    const close = (): void => {
      this.#replaced.delete(channel);
      channel.close();
    };
    this.#replaced.set(channel, setTimeout(close, CLOSE_DELAY_MS).unref());
  }
}
