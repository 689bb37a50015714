/**
 * Client-side health checking: calls go only to servers that say that they serve.
 *
 * grpc-js ignores the `healthCheckConfig` of a service config. This load-balancing policy carries it
 * out, as gRFC A17 describes: it watches the health of each connection and hides from its child
 * policy those that do not serve. It differs in two points:
 *
 * - Connections are watched only while calls use the channel. Otherwise a program that forgets to
 *   close its client would never end.
 * - Of the codes that end a watch, only UNAVAILABLE means that the server does not serve. The others
 *   come from proxies, through which the calls may go well.
 */

import { BinaryReader, BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import {
  Client,
  connectivityState as State,
  credentials,
  experimental,
  status as Code,
  type ClientReadableStream,
} from "@grpc/grpc-js";

const POLICY = "imagemint_health";
const METHOD = "/grpc.health.v1.Health/Watch";
const SERVING = 1; // of grpc.health.v1.HealthCheckResponse.ServingStatus
// After the last call. A watch keeps a process alive.
const LINGER_MS = 1_000;
const RETRY_MS = 1_000;

type Subchannel = ReturnType<experimental.SubchannelInterface["getRealSubchannel"]>;
type StateListener = experimental.ConnectivityStateListener;
type LbConfig = Parameters<typeof experimental.selectLbConfigFromList>[0][number];

/** A service config, as far as this module knows it. */
interface ServiceConfig {
  readonly loadBalancingConfig: readonly object[];
  readonly healthCheckConfig: { readonly serviceName: string };
}

/** Returns a service config whose health checks grpc-js makes; registers the policy that it names. */
export function withHealthChecks(config: ServiceConfig): object {
  if (!experimental.isLoadBalancerNameRegistered(POLICY)) {
    experimental.registerLoadBalancerType(POLICY, HealthBalancer, HealthConfig);
  }
  const { loadBalancingConfig: childPolicy, healthCheckConfig } = config;
  const { serviceName } = healthCheckConfig;
  return { ...config, loadBalancingConfig: [{ [POLICY]: { serviceName, childPolicy } }] };
}

/** Settings of the policy, as a service config has them. */
class HealthConfig implements experimental.TypedLoadBalancingConfig {
  constructor(
    readonly serviceName: string,
    readonly child: experimental.TypedLoadBalancingConfig,
  ) {}

  static createFromJson(json: { serviceName: string; childPolicy: LbConfig[] }): HealthConfig {
    const child = experimental.selectLbConfigFromList(json.childPolicy);
    if (child === null) {
      throw new Error(`${POLICY}: grpc-js knows no childPolicy`);
    }
    return new HealthConfig(json.serviceName, child);
  }

  getLoadBalancerName(): string {
    return POLICY;
  }

  toJsonObject(): object {
    const { serviceName, child } = this;
    return { [POLICY]: { serviceName, childPolicy: [child.toJsonObject()] } };
  }
}

/** The policy: its child sees connections whose health is checked. */
class HealthBalancer implements experimental.LoadBalancer {
  readonly #child: experimental.ChildLoadBalancerHandler;
  readonly #watches = new Map<Subchannel, HealthWatch>();
  readonly #usage = new Usage(() => this.#watches.forEach((each) => each.update()));
  #serviceName = "";

  constructor(helper: experimental.ChannelControlHelper) {
    const checking = experimental.createChildChannelControlHelper(helper, {
      createSubchannel: (address, options) => {
        const subchannel = helper.createSubchannel(address, options);
        return new CheckedSubchannel(subchannel, this.#findWatch(subchannel.getRealSubchannel()));
      },
      updateState: (state, picker, error) =>
        helper.updateState(state, new CountingPicker(picker, this.#usage), error),
    });
    this.#child = new experimental.ChildLoadBalancerHandler(checking);
  }

  updateAddressList(
    endpoints: Parameters<experimental.LoadBalancer["updateAddressList"]>[0],
    config: experimental.TypedLoadBalancingConfig,
    options: object,
    note: string,
  ): boolean {
    if (!(config instanceof HealthConfig)) {
      return false;
    }
    this.#serviceName = config.serviceName;
    return this.#child.updateAddressList(endpoints, config.child, options, note);
  }

  exitIdle(): void {
    this.#child.exitIdle();
  }

  resetBackoff(): void {
    this.#child.resetBackoff();
  }

  destroy(): void {
    this.#child.destroy();
    this.#usage.destroy();
  }

  getTypeName(): string {
    return POLICY;
  }

  #findWatch(subchannel: Subchannel): HealthWatch {
    let watch = this.#watches.get(subchannel);
    if (watch === undefined) {
      const forget = (old: HealthWatch) => {
        if (this.#watches.get(subchannel) === old) {
          this.#watches.delete(subchannel);
        }
      };
      watch = new HealthWatch(subchannel, this.#serviceName, this.#usage, forget);
      this.#watches.set(subchannel, watch);
    }
    return watch;
  }
}

/** Whether calls use a channel now, or did so a moment ago. */
class Usage {
  readonly #changed: () => void;
  #timer: NodeJS.Timeout | undefined;
  #calls = 0;
  #isActive = false;

  constructor(changed: () => void) {
    this.#changed = changed;
  }

  get isActive(): boolean {
    return this.#isActive;
  }

  /** Notes that a call looks for a connection. */
  touch(): void {
    this.#timer ??= setTimeout(() => this.#set(this.#calls > 0), LINGER_MS).unref();
    this.#timer.refresh();
    this.#set(true);
  }

  begin(): void {
    this.#calls += 1;
  }

  end(): void {
    this.#calls -= 1;
    this.#timer?.refresh();
  }

  destroy(): void {
    clearTimeout(this.#timer);
  }

  #set(isActive: boolean): void {
    if (isActive !== this.#isActive) {
      this.#isActive = isActive;
      this.#changed();
    }
  }
}

/** Picks as another picker does, and counts the calls. */
class CountingPicker implements experimental.Picker {
  readonly #picker: experimental.Picker;
  readonly #usage: Usage;

  constructor(picker: experimental.Picker, usage: Usage) {
    this.#picker = picker;
    this.#usage = usage;
  }

  pick(call: experimental.PickArgs): experimental.PickResult {
    this.#usage.touch();
    const picked = this.#picker.pick(call);
    if (!(picked.subchannel instanceof CheckedSubchannel)) {
      return picked;
    }
    return {
      ...picked,
      subchannel: picked.subchannel.unchecked, // a policy has to remove its wrappers
      onCallStarted: () => {
        this.#usage.begin();
        picked.onCallStarted?.();
      },
      onCallEnded: (...status) => {
        this.#usage.end();
        picked.onCallEnded?.(...status);
      },
    };
  }
}

/** A connection that is ready once its health is known, and healthy if its server serves. */
class CheckedSubchannel extends experimental.BaseSubchannelWrapper {
  readonly unchecked: experimental.SubchannelInterface;
  readonly #watch: HealthWatch;
  readonly #listeners = new Set<StateListener>();
  #state: State | undefined; // as the listeners know it; undefined while nothing uses this object

  constructor(unchecked: experimental.SubchannelInterface, watch: HealthWatch) {
    super(unchecked);
    this.unchecked = unchecked;
    this.#watch = watch;
  }

  override getConnectivityState(): State {
    return this.#state ?? this.#findState();
  }

  override addConnectivityStateListener(listener: StateListener): void {
    this.#listeners.add(listener);
  }

  override removeConnectivityStateListener(listener: StateListener): void {
    this.#listeners.delete(listener);
  }

  override ref(): void {
    super.ref();
    if (this.#state === undefined) {
      this.#watch.attach(this.#followHealth);
      this.unchecked.addConnectivityStateListener(this.#followState);
      this.#state = this.#findState();
      this.setHealthy(this.#watch.isServing);
    }
  }

  protected override destroy(): void {
    super.destroy();
    this.unchecked.removeConnectivityStateListener(this.#followState);
    this.#watch.detach(this.#followHealth);
    this.#state = undefined;
  }

  #findState(): State {
    const state = this.unchecked.getConnectivityState();
    return state === State.READY && this.#watch.isPending ? State.CONNECTING : state;
  }

  readonly #followHealth = (): void => this.#update();

  readonly #followState: StateListener = (_, __, ___, keepaliveMs, error) =>
    this.#update(keepaliveMs, error);

  #update(keepaliveMs = 0, error?: string): void {
    const before = this.#state!;
    const after = this.#findState();
    this.#state = after;
    if (after === State.READY) {
      this.setHealthy(this.#watch.isServing);
    }
    if (before !== after) {
      this.#listeners.forEach((each) => each(this, before, after, keepaliveMs, error));
    }
  }
}

/** What a server says of its health over one connection. */
class HealthWatch {
  readonly #subchannel: Subchannel;
  readonly #serviceName: string;
  readonly #usage: Usage;
  readonly #forget: (watch: HealthWatch) => void;
  readonly #listeners = new Set<() => void>();
  #call: ClientReadableStream<number> | undefined;
  #timer: NodeJS.Timeout | undefined; // until the next call
  #isServing: boolean | undefined; // undefined until the server of a new connection has said it
  #isSupported = true;

  /** @param forget called when nothing listens any more */
  constructor(
    subchannel: Subchannel,
    serviceName: string,
    usage: Usage,
    forget: (watch: HealthWatch) => void,
  ) {
    this.#subchannel = subchannel;
    this.#serviceName = serviceName;
    this.#usage = usage;
    this.#forget = forget;
    subchannel.addConnectivityStateListener(this.#followState);
  }

  /** Whether the server of a new connection has yet to say whether it serves. */
  get isPending(): boolean {
    return this.#call !== undefined && this.#isServing === undefined;
  }

  /** Whether the server serves, as far as is known. */
  get isServing(): boolean {
    return this.#isServing ?? true;
  }

  /** Calls `listener` after each change, until detach(). */
  attach(listener: () => void): void {
    this.#listeners.add(listener);
    this.update();
  }

  detach(listener: () => void): void {
    this.#listeners.delete(listener);
    // A policy that gets new addresses leaves its connections a moment before it takes them again.
    setImmediate(() => {
      if (this.#listeners.size === 0) {
        this.#subchannel.removeConnectivityStateListener(this.#followState);
        this.#end();
        this.#forget(this);
      }
    });
  }

  /** Watches the server if calls use the channel, and trusts it otherwise. */
  update(): void {
    if (this.#subchannel.getConnectivityState() !== State.READY || this.#listeners.size === 0) {
      return;
    }
    if (!this.#usage.isActive) {
      this.#end();
      this.#report(true);
    } else if (this.#call === undefined && this.#timer === undefined) {
      this.#isServing ??= true; // calls use the connection already
      this.#begin();
    }
  }

  readonly #followState: StateListener = (_, __, state) => {
    this.#end();
    this.#isServing = undefined;
    this.#isSupported = true;
    if (state === State.READY && this.#usage.isActive) {
      this.#begin();
    }
  };

  #begin(): void {
    if (!this.#isSupported) {
      return;
    }
    const channelOverride = this.#subchannel.getChannel();
    const client = new Client("health", credentials.createInsecure(), { channelOverride });
    const call = client.makeServerStreamRequest(METHOD, encodeName, decodeStatus, this.#serviceName);
    this.#call = call;
    const isActive = () => this.#call === call;
    call.on("metadata", () => isActive() || call.cancel()); // grpc-js has lost an early cancel()
    call.on("data", (status: number) => isActive() && this.#report(status === SERVING));
    call.on("error", () => {}); // "status" has the code
    call.on("status", ({ code }) => isActive() && this.#fail(code));
  }

  #fail(code: Code): void {
    this.#call = undefined;
    if (code === Code.UNIMPLEMENTED) {
      this.#isSupported = false;
    } else {
      this.#timer = setTimeout(() => {
        this.#timer = undefined;
        this.update();
      }, RETRY_MS).unref();
    }
    // A server that shuts down ends its watches with UNAVAILABLE. Other codes are of a proxy.
    this.#report(code !== Code.UNAVAILABLE);
  }

  #end(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const call = this.#call;
    this.#call = undefined;
    call?.cancel();
  }

  #report(isServing: boolean): void {
    if (this.#isServing !== isServing) {
      this.#isServing = isServing;
      [...this.#listeners].forEach((each) => each());
    }
  }
}

/** Returns the HealthCheckRequest for a service. */
function encodeName(service: string): Buffer {
  const writer = new BinaryWriter().tag(1, WireType.LengthDelimited).string(service);
  return Buffer.from(writer.finish());
}

/** Returns the status in a HealthCheckResponse. */
function decodeStatus(data: Buffer): number {
  const reader = new BinaryReader(data);
  let status = 0;
  while (reader.pos < reader.len) {
    const [field, type] = reader.tag();
    if (field === 1) {
      status = reader.int32();
    } else {
      reader.skip(type);
    }
  }
  return status;
}
