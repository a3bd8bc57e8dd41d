// Once faults have ended, somebody looks after what no daemon does by itself: a disk that was given up is attached again, a
// connection that was given up is made again, and a host whose metadata were damaged on purpose, and which said so, gets new
// ones. A daemon whose clients hold it in a state from which its peer's data cannot be taken is restarted. Everything else has to come right without help; a host that stays broken is for the checkers to find.

import type { ReplicaApi, ResourceStatus } from '../runtime/api.ts'
import type { SimHost } from './host.ts'
import { otherHost } from './network.ts'
import type { World } from './world.ts'

const LOOKS_EVERY_US = 700_000
/** A host that needs more help than this is broken. */
const HELP_MAX = 20
/** What a Primary says that cannot go on with its peer's data. */
const REFUSALS = ['this host is Primary', "the peer's data are not those that clients of this host saw last"]

export class Administrator {
  readonly #world: World
  /** The processes that carry out a command at present. */
  readonly #busy = new Set<ReplicaApi>()
  #helped = 0

  constructor(world: World) {
    this.#world = world
  }

  start(): void {
    const { scheduler } = this.#world
    const look = (): void => {
      for (const host of this.#world.hosts) this.#look(host)
      scheduler.after(LOOKS_EVERY_US, 'the administrator looks', look)
    }
    look()
  }

  #look(host: SimHost): void {
    const status = host.status()
    if (status === undefined || this.#busy.has(host.replica) || this.#helped >= HELP_MAX) return
    if (!host.isBroughtUp) return
    const diskless = status.volumes.find((volume) => volume.disk === 'Diskless')
    const standAlone = status.connection === 'StandAlone'
    if (diskless === undefined && !standAlone) return
    this.#helped++
    if (this.#world.damaged.has(host.name)) {
      this.#renew(host)
      return
    }
    // The one with good metadata waits until the other one has new ones.
    if (standAlone && this.#world.damaged.has(otherHost(host.name))) {
      this.#renew(this.#world.host(otherHost(host.name)))
      return
    }
    const { replica } = host
    this.#busy.add(replica)
    const done = (): void => {
      this.#busy.delete(replica)
    }
    if (diskless !== undefined) {
      host.command({ type: 'attach', volume: diskless.volume }, (result) => {
        const now = host.status()
        // Its data are not those that clients saw last: the peer has them, or nobody.
        if (result.code === 0 || now?.connection !== 'StandAlone') done()
        else this.#connect(host, now, done)
      })
    } else this.#connect(host, status, done)
  }

  #connect(host: SimHost, status: ResourceStatus, done: () => void): void {
    if (this.#isRefused(status)) {
      host.crashProcess()
      host.start()
    } else host.command({ type: 'connect', discardMyData: false }, done)
  }

  /**
   * A Primary without good data of its own cannot take the peer's while it is in use (DRBD's rr-conflict disconnect), nor data
   * of another generation than its clients saw. What they lose with it is for the checkers of the history to judge.
   */
  #isRefused(status: ResourceStatus): boolean {
    const { role, connectionReason = '', volumes } = status
    const isRefused = REFUSALS.some((reason) => connectionReason.startsWith(reason))
    return role === 'Primary' && isRefused && volumes.some((volume) => volume.disk !== 'UpToDate')
  }

  #renew(host: SimHost): void {
    host.crashProcess()
    this.#world.replaceMetadata(host.name, { newDisk: false })
    host.start()
  }
}
