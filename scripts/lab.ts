// `coprime lab` as the demo and the bench use it: two hosts on this machine, started and stopped from here.

import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { connectNbd, type NbdConnectionToServer } from '../src/adapters/nbd-client.ts'
import type { ResourceReport } from '../src/control/api.ts'
import { ControlClient } from '../src/control/client.ts'
import { missingPrograms, ProgramError, run, Server } from './processes.ts'

const CLI = fileURLToPath(new URL('../src/cli/main.js', import.meta.url))
const KILL_AFTER_STOP_MS = 5000
const POLL_MS = 20

export type HostName = 'a' | 'b'

interface HostLine {
  readonly nbd: string
  readonly pid: number
  readonly disk: string
  readonly control: string
}

/** The first line that `coprime lab --json` prints. */
interface LabLine {
  readonly a: HostLine
  readonly b: HostLine
  readonly link: string
  readonly dashboard: string
}

export interface LabHost {
  readonly name: HostName
  readonly nbdUri: string
  /** File behind the host's disk: first what clients see, then the metadata. */
  readonly diskPath: string
  readonly control: ControlClient
  connect(): Promise<NbdConnectionToServer>
  /** What its daemon says of the one resource. */
  report(): Promise<ResourceReport>
}

export interface LabOptions {
  /** Empty or not there yet. */
  readonly folder: string
  /** As `coprime lab --size` takes it. */
  readonly size: string
  /** More arguments of `coprime lab`. */
  readonly more?: readonly string[]
  /** Whether it outlives this process if it is not stopped. */
  readonly detached: boolean
}

export class Lab {
  readonly #server: Server
  readonly #folder: string
  readonly a: LabHost
  readonly b: LabHost
  readonly dashboard: string

  private constructor(server: Server, folder: string, line: LabLine) {
    this.#server = server
    this.#folder = folder
    this.a = labHost('a', line.a)
    this.b = labHost('b', line.b)
    this.dashboard = line.dashboard
  }

  /** Resolves when both hosts serve their exports. */
  static async start(options: LabOptions): Promise<Lab> {
    const outPath = `${options.folder}.out`
    const server = new Server({
      command: process.execPath,
      args: [CLI, 'lab', '--dir', options.folder, '--size', options.size, '--json', ...(options.more ?? [])],
      outPath,
      errPath: `${options.folder}.err`,
      detached: options.detached,
    })
    try {
      const line = await server.until('both exports are ready', () => {
        const text = readFileSync(outPath, 'utf8')
        const end = text.indexOf('\n')
        return end < 0 ? undefined : text.slice(0, end)
      })
      return new Lab(server, options.folder, JSON.parse(line) as LabLine)
    } catch (error) {
      await server.stop()
      throw error
    }
  }

  get pid(): number {
    return this.#server.pid
  }

  /** SIGKILL to the daemon of a host. */
  async kill(host: HostName): Promise<void> {
    await this.#command('kill', host)
  }

  async restart(host: HostName): Promise<void> {
    await this.#command('restart', host)
  }

  /**
   * A core for each host, where there are two. Left to the scheduler both may sit on one for as long as they run, as each wakes the
   * other all the time: half the writes.
   */
  async pin(): Promise<void> {
    if (missingPrograms(['taskset']).length > 0) return
    const cores = coresAllowed()
    if (cores.length < 2) return
    for (const [i, host] of [this.a, this.b].entries()) {
      const { pid } = await host.control.status()
      await run('taskset', ['--all-tasks', '--cpu-list', '--pid', String(cores[i]), String(pid)])
    }
  }

  /** How to type a command of the lab, for people. */
  commandLine(...words: readonly string[]): string {
    return `node ${CLI} lab ${[...words, '--dir', this.#folder].join(' ')}`
  }

  async stop(): Promise<void> {
    const pids = await Promise.all([pidOf(this.a), pidOf(this.b)])
    await this.#server.stop()
    for (const pid of pids) if (pid !== undefined) await ended(pid)
  }

  leaveRunning(): void {
    this.#server.leaveRunning()
  }

  async #command(...words: readonly string[]): Promise<void> {
    await run(process.execPath, [CLI, 'lab', ...words, '--dir', this.#folder])
  }
}

function labHost(name: HostName, line: HostLine): LabHost {
  const uri = new URL(line.nbd)
  const socketPath = uri.searchParams.get('socket')
  if (uri.protocol !== 'nbd+unix:' || socketPath === null) throw new ProgramError(`not a unix socket: ${line.nbd}`)
  const control = new ControlClient(line.control)
  return {
    name,
    nbdUri: line.nbd,
    diskPath: line.disk,
    control,
    connect: () => connectNbd({ socketPath, exportName: uri.pathname.slice(1) }),
    async report() {
      const [resource] = (await control.status()).resources
      if (resource === undefined) throw new ProgramError(`host ${name} has no resource`)
      return resource
    },
  }
}

/** Numbers of the cores that this process may run on, from a list like 0-1,4. */
function coresAllowed(): number[] {
  const list = /^Cpus_allowed_list:\s*(.+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? ''
  return list.split(',').flatMap((range) => {
    const [first = 0, last = first] = range.split('-').map(Number)
    return Array.from({ length: last - first + 1 }, (_, i) => first + i)
  })
}

async function pidOf(host: LabHost): Promise<number | undefined> {
  try {
    return (await host.control.status()).pid
  } catch {
    return undefined // it has ended already
  }
}

/** Waits until a daemon is gone; the lab has stopped it, so one that stays is killed and reported. */
async function ended(pid: number): Promise<void> {
  const deadlineMs = performance.now() + KILL_AFTER_STOP_MS
  while (isAlive(pid)) {
    if (performance.now() > deadlineMs) {
      process.kill(pid, 'SIGKILL')
      throw new ProgramError(`daemon ${pid} outlived the lab`)
    }
    await sleep(POLL_MS)
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}
