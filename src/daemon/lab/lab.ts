// `coprime lab`: two hosts on this machine, each a daemon in a process of its own, with real sockets and disks in a folder;
// for trying out, demos, benches and tests. The lab starts them, makes both Primary as soon as that is safe, is their fencing
// agent, and ends them.

import { freePorts } from '../../adapters/free-ports.ts'
import { ListenError } from '../../adapters/nbd-listen.ts'
import { loadConfiguration, usableResource } from '../../config/index.ts'
import { nodeConfigFiles } from '../config-files.ts'
import { StartError } from '../errors.ts'
import { createMetadataOffline } from '../offline-metadata.ts'
import type { LabLine, LabSideLine, LabSideStatus, LabStatus } from './api.ts'
import { EXTRA_DELAY_MS_MAX, writeConfig } from './config.ts'
import { prepareDisks } from './disks.ts'
import { LAB_RESOURCE, type LabPaths, makeFolders } from './folder.ts'
import { type LabOptions, otherSide, SIDES, type SideName } from './options.ts'
import { type LabBackend, LabServer } from './server.ts'
import { Side } from './side.ts'

const RESTART_PAUSE_MS = 1000
const DEMOTE_TIMEOUT_MS = 5000
/** DRBD's exit codes of a fence-peer handler (config-and-tools.md 1.8). */
const FENCED = 7
const NOT_FENCED = 1

export class Lab implements LabBackend {
  readonly #options: LabOptions
  readonly #note: (line: string) => void
  readonly #server = new LabServer()
  readonly #link: { cut: boolean; delayMs: number }
  readonly #restarts = new Map<SideName, NodeJS.Timeout>()
  readonly #ended: Promise<void>
  #resolveEnded: () => void = () => {}
  #paths: LabPaths
  #sides: Record<SideName, Side> | undefined
  #sizeBytes = 0
  #dashboard = ''
  #stopping: Promise<void> | undefined

  /** `note`: one line for people, about what happens to the sides. */
  constructor(options: LabOptions, note: (line: string) => void) {
    this.#options = options
    this.#note = note
    this.#link = { cut: false, delayMs: options.linkDelayMs }
    this.#paths = makeFolders(options.folder)
    this.#ended = new Promise((resolve) => {
      this.#resolveEnded = resolve
    })
  }

  /** Resolves when both exports are ready, or both hosts are as ready as their disks allow. Throws AppErrors. */
  async start(): Promise<LabLine> {
    await this.#claimFolder()
    try {
      const fresh = await this.#prepare()
      this.#dashboard = await this.#server.listenOnPort(this)
      if (this.#stopping !== undefined) throw new StartError('E_LAB', 'told to stop before it was ready')
      const sides = this.#createSides()
      await Promise.all(SIDES.map((side) => sides[side].start()))
      await this.#whenSettled(sides, fresh)
      return { ...this.#sideLines(), link: this.#paths.socket, dashboard: this.#dashboard }
    } catch (error) {
      await this.stop()
      throw error
    }
  }

  /** Resolves when the lab has ended, whoever stopped it. */
  get ended(): Promise<void> {
    return this.#ended
  }

  async #claimFolder(): Promise<void> {
    const { socket, folder } = this.#paths
    try {
      await this.#server.listenOnSocket(socket, this)
    } catch (error) {
      await this.#server.close()
      if (!(error instanceof ListenError) || error.code !== 'E_LISTEN_IN_USE') throw error
      throw new StartError('E_ALREADY_RUNNING', `${folder}: a lab is running here already`, {
        hint: 'Stop it with `coprime lab stop`, or choose another --dir.',
        cause: error,
      })
    }
  }

  /** Disks, configuration, metadata. Returns whether both disks are new. */
  async #prepare(): Promise<boolean> {
    const { protocol, order, writeNowAcks, linkDelayMs, sizeBytes: wanted } = this.#options
    const { sizeBytes, fresh } = prepareDisks(this.#paths, wanted)
    this.#sizeBytes = sizeBytes
    const [a = 0, b = 0] = await freePorts(SIDES.length)
    const ports = { a, b }
    writeConfig({ paths: this.#paths, protocol, order, writeNowAcks, linkDelayMs, sizeBytes, ports })
    for (const side of fresh) {
      const configuration = loadConfiguration(this.#paths.configFile, nodeConfigFiles(), { hostName: side })
      const volume = usableResource(configuration, LAB_RESOURCE).local?.volumes[0]
      if (volume === undefined) continue
      await createMetadataOffline({ volume, force: true, confirm: async () => true, print: () => {} })
    }
    return fresh.length === SIDES.length
  }

  #createSides(): Record<SideName, Side> {
    const create = (name: SideName): Side =>
      new Side({
        name,
        paths: this.#paths,
        logLevel: this.#options.logLevel,
        wantsPrimary: this.#options.protocol === 'C' || name === 'a',
        link: () => this.#link,
        onExit: () => this.#onExit(name),
        note: this.#note,
      })
    this.#sides = { a: create('a'), b: create('b') }
    return this.#sides
  }

  get #running(): Record<SideName, Side> {
    if (this.#sides === undefined || this.#stopping !== undefined) {
      throw new StartError('E_LAB', this.#sides === undefined ? 'the lab is just starting' : 'the lab is just stopping')
    }
    return this.#sides
  }

  #sideLines(): Record<SideName, LabSideLine> {
    const line = (side: SideName): LabSideLine => ({
      nbd: this.#nbdUri(side),
      pid: this.#sides?.[side].pid ?? 0,
      disk: this.#paths.disk[side],
      control: this.#paths.control[side],
    })
    return { a: line('a'), b: line('b') }
  }

  #nbdUri(side: SideName): string {
    const socket = this.#paths.nbdSocket[side].split('/').map(encodeURIComponent).join('/')
    return `nbd+unix:///${LAB_RESOURCE}?socket=${socket}`
  }

  // ---- the way to two Primaries ---------------------------------------------------------------------------------------

  /** Until both sides are UpToDate and have the role that they want, or one of them has given up its peer. */
  async #whenSettled(sides: Record<SideName, Side>, fresh: boolean): Promise<void> {
    let declared = !fresh
    await new Promise<void>((resolve, reject) => {
      const stops = SIDES.map((side) => sides[side].onChange(() => look()))
      const finish = (end: () => void): void => {
        for (const stop of stops) stop()
        end()
      }
      const look = (): void => {
        const dead = SIDES.find((side) => sides[side].pid === undefined)
        if (dead !== undefined) {
          finish(() => reject(new StartError('E_LAB', `${dead} has ended; see ${this.#paths.log[dead]}`)))
        } else if (SIDES.every((side) => isReady(sides[side]))) finish(resolve)
        else if (SIDES.some((side) => hasGivenUp(sides[side]))) {
          this.#note(`the two sides do not connect: ${reasonOf(sides)}`)
          finish(resolve)
        } else if (!declared && SIDES.every((side) => isNew(sides[side]))) {
          // New disks that are not known to be all zero: the documented recipe.
          declared = true
          this.#declareInSync(sides.a, (error) => finish(() => reject(error)))
        }
      }
      look()
    })
  }

  #declareInSync(side: Side, fail: (error: unknown) => void): void {
    const request = { command: 'new-current-uuid', clearBitmap: true } as const
    side.client.command(LAB_RESOURCE, request).then((reply) => {
      if (reply.code !== 0) this.#note(`new-current-uuid: (${reply.code}) ${reply.text}`)
    }, fail)
  }

  // ---- commands ---------------------------------------------------------------------------------------------------------

  async status(): Promise<LabStatus> {
    const side = async (name: SideName): Promise<LabSideStatus> => ({
      pid: this.#sides?.[name].pid ?? null,
      nbd: this.#nbdUri(name),
      disk: this.#paths.disk[name],
      control: this.#paths.control[name],
      report: (await this.#sides?.[name].report()) ?? null,
    })
    const [a, b] = await Promise.all([side('a'), side('b')])
    const { folder } = this.#paths
    const { cut, delayMs } = this.#link
    return {
      pid: process.pid,
      folder,
      sizeBytes: this.#sizeBytes,
      dashboard: this.#dashboard,
      link: { cut, delayMs },
      a,
      b,
    }
  }

  async kill(name: SideName): Promise<void> {
    await this.#running[name].kill()
  }

  async restart(name: SideName): Promise<void> {
    const side = this.#running[name]
    clearTimeout(this.#restarts.get(name))
    await side.kill()
    clearTimeout(this.#restarts.get(name)) // with --restart, its end has set a new one
    await side.start()
  }

  /** Two sides may ask at once: the first one wins, and its request ends the other before it can be heard. */
  async fence(victim: SideName): Promise<number> {
    const sides = this.#running
    const asker = otherSide(victim)
    if (sides[asker].fenced || sides[asker].pid === undefined) {
      this.#note(`${asker} asks to fence ${victim}, but was fenced itself: refused`)
      return NOT_FENCED
    }
    const wasRunning = sides[victim].pid !== undefined
    sides[victim].fenced = true
    await sides[victim].kill()
    this.#note(`${asker} asked to fence ${victim}: ${wasRunning ? 'killed' : 'it was dead already'}`)
    return FENCED
  }

  async setLink(change: { readonly cut?: boolean; readonly delayMs?: number }): Promise<void> {
    const sides = this.#running
    const delayMsMax = this.#options.linkDelayMs + EXTRA_DELAY_MS_MAX
    if (change.delayMs !== undefined && change.delayMs > delayMsMax) {
      const way = `for more start it with --link-delay-ms ${change.delayMs}`
      throw new StartError('E_ARGUMENT', `delay: the time-outs of this lab allow ${delayMsMax} ms; ${way}`)
    }
    this.#link.cut = change.cut ?? this.#link.cut
    this.#link.delayMs = change.delayMs ?? this.#link.delayMs
    const tell = async (side: Side): Promise<void> => {
      if (side.pid === undefined) return
      await side.client.link({ ...this.#link }).catch((error: unknown) => {
        if (side.pid !== undefined) throw error // else it has died meanwhile, and will be told when it starts
      })
    }
    await Promise.all(SIDES.map((name) => tell(sides[name])))
  }

  stop(): Promise<void> {
    this.#stopping ??= this.#stop()
    return this.#stopping
  }

  async #stop(): Promise<void> {
    for (const timer of this.#restarts.values()) clearTimeout(timer)
    const sides = this.#sides
    if (sides !== undefined) {
      await this.#heal(sides)
      // Both give up their role while they are connected: neither is left behind with older data.
      await Promise.all(SIDES.map((name) => sides[name].demote(DEMOTE_TIMEOUT_MS)))
      await Promise.all(SIDES.map((name) => sides[name].stop()))
    }
    setImmediate(() => {
      void this.#server.close().then(this.#resolveEnded, this.#resolveEnded)
    })
  }

  /** A link that is cut would keep them from parting in good order. */
  async #heal(sides: Record<SideName, Side>): Promise<void> {
    if (!this.#link.cut) return
    this.#link.cut = false
    const heal = async (side: Side): Promise<void> => {
      if (side.pid !== undefined) await side.client.link({ cut: false })
    }
    await Promise.allSettled(SIDES.map((name) => heal(sides[name])))
  }

  #onExit(name: SideName): void {
    if (!this.#options.restart || this.#stopping !== undefined) return
    const timer = setTimeout(() => {
      if (this.#stopping !== undefined) return
      this.#sides?.[name].start().then(
        () => this.#note(`${name}: started again`),
        (error: unknown) => this.#note(`${name}: not started again: ${String(error)}`),
      )
    }, RESTART_PAUSE_MS)
    this.#restarts.set(name, timer)
  }
}

function isReady({ resource, wantsPrimary }: Side): boolean {
  if (resource === undefined || resource.connection !== 'Connected') return false
  if (!resource.volumes.every(({ disk, peerDisk }) => disk === 'UpToDate' && peerDisk === 'UpToDate')) return false
  return resource.role === (wantsPrimary ? 'Primary' : 'Secondary')
}

const isNew = ({ resource }: Side): boolean =>
  resource?.connection === 'Connected' &&
  resource.volumes.every(({ disk, peerDisk }) => disk === 'Inconsistent' && peerDisk === 'Inconsistent')

/** Without a reason it has not even begun. */
const hasGivenUp = ({ resource }: Side): boolean =>
  resource?.connection === 'StandAlone' && resource.connectionReason !== undefined

const reasonOf = (sides: Record<SideName, Side>): string =>
  SIDES.map(
    (side) => `${side} is ${sides[side].resource?.connection} (${sides[side].resource?.connectionReason})`,
  ).join(', ')
