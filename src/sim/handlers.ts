// The administrator's handler commands in a simulated world. `fence-peer` is scripted: the default agent makes sure that
// the other host is dead and then says so (exit code 7: peer was stonithed; config-and-tools.md, handlers). Every other
// handler is noted and succeeds.

import type { Prng } from '../base/prng.ts'
import type { Handlers } from '../runtime/ports.ts'
import type { Life, Scheduler } from './scheduler.ts'

/** Peer is dead. */
export const FENCE_PEER_STONITHED = 7
/** The handler could not do anything: nothing is known about the peer. (5, "unreachable", would count as success.) */
export const FENCE_PEER_FAILED = 1

const PROMPT_US = 1_000

export type FencingAgent =
  /** Switches the other host off. */
  | 'power-off'
  /** Kills the other host's process. */
  | 'kill'
  /** Cannot reach the other host, and says so. */
  | 'fails'
  /** Never comes back. */
  | 'hangs'

export interface HandlersConfig {
  readonly fencingAgent: FencingAgent
  readonly delayUsMin: number
  readonly delayUsMax: number
}

export const HANDLERS_DEFAULTS: HandlersConfig = { fencingAgent: 'kill', delayUsMin: 5_000, delayUsMax: 400_000 }

export interface HandlersOwner {
  readonly host: string
  readonly life: Life
  /** A handler is started. */
  onRun(name: string): void
  /** What a fencing agent does to the other host. */
  killPeer(agent: 'power-off' | 'kill'): void
}

export class SimHandlers implements Handlers {
  readonly #scheduler: Scheduler
  readonly #prng: Prng
  readonly #config: HandlersConfig
  readonly #owner: HandlersOwner
  /** Handlers that were started and have not ended, `hangs` excepted. */
  running = 0
  /** Faults have ended: an agent that strikes long after the peer is back, again and again, is one of them. */
  prompt = false

  constructor(scheduler: Scheduler, prng: Prng, config: HandlersConfig, owner: HandlersOwner) {
    this.#scheduler = scheduler
    this.#prng = prng
    this.#config = config
    this.#owner = owner
  }

  run(name: string, _environment: ReadonlyMap<string, string>, done: (exitCode: number) => void): void {
    const { host, life } = this.#owner
    if (!life.alive) return
    this.#scheduler.note(`${host} handler ${name} starts`)
    this.#owner.onRun(name)
    const agent = this.#config.fencingAgent
    if (name === 'fence-peer' && agent === 'hangs') return
    this.running++
    const finish = (exitCode: number): void => {
      this.#scheduler.after(this.#drawDelayUs(), `${host} handler ${name} exits ${exitCode}`, () => {
        this.running--
        if (life.alive) done(exitCode)
      })
    }
    if (name !== 'fence-peer') finish(0)
    else if (agent === 'fails') finish(FENCE_PEER_FAILED)
    else {
      // Two agents may be under way against each other: the first one to strike wins, the other one dies with its host.
      this.#scheduler.after(this.#drawDelayUs(), `${host} fences its peer (${agent})`, () => {
        if (!life.alive) return
        if (agent === 'power-off' || agent === 'kill') this.#owner.killPeer(agent)
        finish(FENCE_PEER_STONITHED)
      })
    }
  }

  #drawDelayUs(): number {
    const { delayUsMin, delayUsMax } = this.#config
    return this.prompt ? PROMPT_US : this.#prng.intInclusive(delayUsMin, delayUsMax)
  }
}
