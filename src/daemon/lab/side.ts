// One side of a lab: a daemon in a process of its own, from its start to its end, and the wish that it be Primary.

import { type ChildProcess, spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'

import { AppError } from '../../base/errors.ts'
import type { HostReport, LinkReport, ResourceReport } from '../../control/api.ts'
import { ControlClient } from '../../control/client.ts'
import { isConnected } from '../../control/states.ts'
import { StartError } from '../errors.ts'
import { LAB_RESOURCE, type LabPaths } from './folder.ts'
import type { SideName } from './options.ts'

export interface SideOptions {
  readonly name: SideName
  readonly paths: LabPaths
  readonly logLevel: string
  readonly wantsPrimary: boolean
  /** As it is now; a daemon that starts is told. */
  link(): LinkReport
  /** The process has ended. */
  onExit(): void
  /** One line for people. */
  note(line: string): void
}

const ENTRY = fileURLToPath(new URL('../../cli/main.js', import.meta.url))
const STOP_TIMEOUT_MS = 20_000
const PROMOTE_PAUSE_MS = 300
const STDERR_CHARACTERS_MAX = 4000

export class Side {
  readonly name: SideName
  readonly client: ControlClient
  /** Killed at the other side's request; until it is started again it must not win a fencing race itself. */
  fenced = false
  /** The latest state that it told. */
  resource: ResourceReport | undefined
  readonly #options: SideOptions
  readonly #watchers = new Set<() => void>()
  #child: ChildProcess | undefined
  #exited: Promise<void> = Promise.resolve()
  #watch: { stop(): void } | undefined
  #promoting = false
  #demoting = false

  constructor(options: SideOptions) {
    this.name = options.name
    this.#options = options
    this.client = new ControlClient(options.paths.control[options.name])
  }

  get pid(): number | undefined {
    return this.#child?.pid
  }

  get wantsPrimary(): boolean {
    return this.#options.wantsPrimary
  }

  /** Starts the daemon and brings the resource up. Throws a StartError if it ends or refuses on the way. */
  async start(): Promise<void> {
    if (this.#child !== undefined) return
    this.fenced = false
    this.#demoting = false
    const child = this.#spawn()
    await this.#whenReady(child)
    await this.client.link({ ...this.#options.link() })
    this.#startWatch()
    const reply = await this.client.command(LAB_RESOURCE, { command: 'up' })
    if (reply.code !== 0)
      throw new StartError('E_LAB', `${this.name}: (${reply.code}) ${reply.text}: ${reply.detail ?? ''}`)
  }

  /** Ends the process at once; resolves when it is gone. */
  async kill(): Promise<void> {
    this.#child?.kill('SIGKILL')
    await this.#exited
  }

  /** Ends it cleanly, and by force if that takes too long. */
  async stop(): Promise<void> {
    const child = this.#child
    if (child === undefined) return
    const timer = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS)
    child.kill('SIGTERM')
    await this.#exited
    clearTimeout(timer)
  }

  /** Gives up the role, clients or not. What fails here fails as well when the daemon ends. */
  async demote(timeoutMs: number): Promise<void> {
    this.#demoting = true
    if (this.#child === undefined) return
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, timeoutMs)
    })
    const done = this.client.command(LAB_RESOURCE, { command: 'secondary', force: true }).then(
      () => {},
      (error: unknown) => this.#options.note(`${this.name}: ${String(error)}`),
    )
    await Promise.race([done, late])
    clearTimeout(timer)
  }

  async report(): Promise<HostReport | undefined> {
    if (this.#child === undefined) return undefined
    try {
      return await this.client.status()
    } catch (error) {
      if (error instanceof AppError) return undefined // it has just been killed, or does not listen yet
      throw error
    }
  }

  /** Calls at each change of what the side tells, and when its process ends. Returns what ends it. */
  onChange(call: () => void): () => void {
    this.#watchers.add(call)
    return () => this.#watchers.delete(call)
  }

  // ---- the process --------------------------------------------------------------------------------------------------

  #spawn(): ChildProcess {
    const { paths, name, logLevel } = this.#options
    const args = [ENTRY, 'daemon', '--json', '--node', name, '-c', paths.configFile]
    args.push('--runtime-dir', paths.runtime[name], '--control', paths.control[name], '--dashboard', '127.0.0.1:0')
    args.push('--log-file', paths.log[name], '--log-level', logLevel, '--lab-link', '--until-stdin-ends')
    // Standard input ends when this process dies, however it dies: then the daemon ends as well. A group of its own keeps
    // Ctrl-C on the terminal from it: the lab stops both in good order.
    const child = spawn(process.execPath, args, { stdio: ['pipe', 'pipe', 'pipe'], detached: true })
    this.#child = child
    this.#exited = new Promise((resolve) => {
      child.on('error', () => resolve()) // it never was: `#whenReady` tells
      child.on('exit', (code, signal) => {
        this.#onExit(code, signal)
        resolve()
      })
    })
    return child
  }

  #whenReady(child: ChildProcess): Promise<void> {
    let output = ''
    let errors = ''
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      errors = (errors + text).slice(-STDERR_CHARACTERS_MAX)
    })
    return new Promise((resolve, reject) => {
      child.stdout?.setEncoding('utf8').on('data', (text: string) => {
        output += text
        if (output.includes('\n')) resolve()
      })
      child.on('error', (cause) => {
        this.#child = undefined
        reject(new StartError('E_LAB', `${this.name}: cannot be started: ${cause.message}`, { cause }))
      })
      child.on('close', (code, signal) => {
        const why = errors.trim() || `it ended with ${signal ?? code}; see ${this.#options.paths.log[this.name]}`
        reject(new StartError('E_LAB', `${this.name}: ${why}`))
      })
    })
  }

  #onExit(code: number | null, signal: NodeJS.Signals | null): void {
    this.#child = undefined
    this.#watch?.stop()
    this.#watch = undefined
    this.resource = undefined
    this.#promoting = false
    this.#options.note(`${this.name}: process ended (${signal ?? `exit code ${code}`})`)
    for (const call of [...this.#watchers]) call()
    this.#options.onExit()
  }

  // ---- what it tells ------------------------------------------------------------------------------------------------

  #startWatch(): void {
    this.#watch = this.client.watch(
      (event) => {
        if (event.type !== 'resource' || event.resource.name !== LAB_RESOURCE) return
        this.resource = event.resource
        this.#promoteIfDue()
        for (const call of [...this.#watchers]) call()
      },
      () => {}, // the process has ended: `#onExit` does what is to be done
    )
  }

  /** Only beside a connected peer: without one, a promotion would fence it, and it may just be starting. */
  #promoteIfDue(): void {
    const { resource } = this
    if (resource === undefined || !this.wantsPrimary || this.#promoting || this.#demoting) return
    if (resource.role === 'Primary' || !isConnected(resource.connection)) return
    if (!resource.volumes.every(({ disk }) => disk === 'UpToDate')) return
    this.#promoting = true
    void this.#promote(this.#child)
  }

  async #promote(child: ChildProcess | undefined): Promise<void> {
    const refusal = await this.client.command(LAB_RESOURCE, { command: 'primary' }).then(
      (reply) => (reply.code === 0 ? undefined : `(${reply.code}) ${reply.text}`),
      (error: unknown) => String(error),
    )
    if (child === undefined || child !== this.#child) return
    if (refusal === undefined) {
      this.#promoting = false
      return
    }
    this.#options.note(`${this.name}: not Primary yet: ${refusal}`)
    setTimeout(() => {
      if (child !== this.#child) return
      this.#promoting = false
      this.#promoteIfDue()
    }, PROMOTE_PAUSE_MS).unref()
  }
}
