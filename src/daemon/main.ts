// `coprime daemon`: reads the configuration as this host, builds its resources, serves NBD, control and dashboard, and ends
// cleanly on SIGTERM and SIGINT. Wiring only. Everything that is wrong from outside is thrown as an AppError before the
// daemon is ready.

import { hostname, networkInterfaces } from 'node:os'
import { join } from 'node:path'
import { ListenError, listenOn, type NbdAddress } from '../adapters/nbd-listen.ts'
import { AppError } from '../base/errors.ts'
import { type Configuration, formatWarning, loadConfiguration } from '../config/index.ts'
import type { DaemonReady } from '../control/api.ts'
import { controlSocketPath, runtimeFolder } from '../control/paths.ts'
import { ControlServer } from '../control/server.ts'
import { nodeConfigFiles } from './config-files.ts'
import { StartError } from './errors.ts'
import { Host, type LabLink } from './host.ts'
import { HostedResource } from './hosted-resource.ts'
import { type Log, openLog } from './log.ts'
import { makeFolder } from './make-folder.ts'
import { localResource } from './settings.ts'

export interface DaemonOptions {
  readonly config: string
  /** Default: `uname -n`. */
  readonly node: string | undefined
  readonly control: string | undefined
  readonly runtimeDir: string | undefined
  /** `HOST:PORT`, `none`, or undefined for the usual port if it is free. */
  readonly dashboard: string | undefined
  readonly logLevel: string
  readonly logFile: string | undefined
  /** Bring all resources up. */
  readonly up: boolean
  /** The network between the hosts can be cut and slowed down through the control socket. */
  readonly labLink: boolean
  /** End as soon as standard input ends: the process at its other end has died. */
  readonly untilStdinEnds: boolean
  /** Called when all sockets are open. */
  onReady(ready: DaemonReady): void
}

const DASHBOARD_DEFAULT = '127.0.0.1:9942'
const DOWN_TIMEOUT_MS = 5000
/** All of the end, whatever hangs. */
const END_TIMEOUT_MS = 15_000
const EXIT_HANGS = 1
const EXIT_CRASH = 70

/** Resolves with the exit code when the daemon has ended. */
export async function runDaemon(options: DaemonOptions): Promise<number> {
  const node = options.node ?? hostname()
  const log = openLog({ level: options.logLevel, file: options.logFile, host: node })
  endOnOwnMistake(log)
  const configuration = loadFor(node, options.config)
  for (const warning of configuration.warnings) log.warn({ code: warning.code }, formatWarning(warning))
  const folder = runtimeFolder(options)
  const control = controlSocketPath(options)
  makeRuntimeFolder(folder)
  const link: LabLink | undefined = options.labLink ? { delayMs: 0, cut: false } : undefined
  const host = new Host({ name: node, configFile: configuration.path, link })
  addResources(host, configuration, { log, folder, link })
  const server = new ControlServer(host)
  const ended = endSignal(options.untilStdinEnds, log)
  const dashboard = await startServers({ host, server, control, log, wanted: options.dashboard })
  log.info({ control, dashboard, resources: [...host.resources.keys()] }, 'ready')
  options.onReady({ host: node, pid: process.pid, control, dashboard, resources: [...host.resources.keys()] })
  if (options.up) await bringUp(host, log)
  log.info({}, `ending: ${await ended}`)
  await end(host, server, log)
  return 0
}

function loadFor(node: string, path: string): Configuration {
  const addresses = Object.values(networkInterfaces()).flatMap((list) => (list ?? []).map(({ address }) => address))
  return loadConfiguration(path, nodeConfigFiles(), { hostName: node, localAddresses: addresses })
}

function makeRuntimeFolder(path: string): void {
  try {
    makeFolder(path, process.getuid?.() === 0 ? 0o755 : 0o700)
  } catch (cause) {
    throw new StartError('E_FOLDER', `${path}: cannot be created: ${(cause as Error).message}`, {
      hint: 'Choose another folder with --runtime-dir.',
      cause,
    })
  }
}

interface Parts {
  readonly log: Log
  readonly folder: string
  readonly link: LabLink | undefined
}

function addResources(host: Host, configuration: Configuration, { log, folder, link }: Parts): void {
  const local = [...configuration.resources.values()].filter((resource) => resource.local !== undefined)
  if (local.length === 0) {
    const names = [...configuration.resources.keys()].join(', ') || 'none at all'
    throw new StartError(
      'E_RESOURCE_UNUSABLE',
      `${configuration.path}: no resource has a section for host '${configuration.hostName}' (resources: ${names})`,
      { hint: 'Compare `uname -n` with the `on` sections, or name the host with --node.', exitCode: 10 },
    )
  }
  for (const resource of local) {
    const hosted = new HostedResource(localResource(resource), {
      log,
      configFile: configuration.path,
      nbdSocketPath: join(folder, `${resource.name}.nbd`),
      link,
      onChange: () => host.changed(resource.name),
    })
    host.add(hosted)
  }
}

interface Servers {
  readonly host: Host
  readonly server: ControlServer
  readonly control: string
  readonly log: Log
  readonly wanted: string | undefined
}

/** The control socket first: it tells two daemons in one folder apart. Returns the dashboard's URL. */
async function startServers({ host, server, control, log, wanted }: Servers): Promise<string | null> {
  try {
    await server.listenOnSocket<NbdAddress>(listenOn, { type: 'unix', path: control }, control)
    for (const resource of host.resources.values()) await resource.startServer()
    return await startDashboard(server, wanted, log)
  } catch (error) {
    await server.close()
    await Promise.all([...host.resources.values()].map((resource) => resource.stop(0)))
    if (error instanceof ListenError && error.code === 'E_LISTEN_IN_USE' && error.message.startsWith(control)) {
      throw new StartError('E_ALREADY_RUNNING', `a daemon is running already: it answers at ${control}`, {
        cause: error,
      })
    }
    throw error
  }
}

async function startDashboard(server: ControlServer, wanted: string | undefined, log: Log): Promise<string | null> {
  if (wanted === 'none') return null
  const address = dashboardAddress(wanted ?? DASHBOARD_DEFAULT)
  try {
    const bound = await server.listenOnPort<NbdAddress>(listenOn, address)
    return bound.type === 'tcp' ? `http://${urlHost(bound.host)}:${bound.port}/` : null
  } catch (error) {
    if (wanted !== undefined || !(error instanceof ListenError)) throw error
    log.warn({ code: error.code }, `no dashboard: ${error.message}`)
    return null
  }
}

const urlHost = (host: string): string => (host.includes(':') ? `[${host}]` : host)

function dashboardAddress(text: string): NbdAddress {
  const parts = /^(?:\[([0-9A-Fa-f:.%]+)\]|([^:[\]]+)):([0-9]{1,5})$/.exec(text)
  const port = Number(parts?.[3])
  if (parts === null || port > 65_535) {
    throw new StartError('E_ARGUMENT', `--dashboard ${text}: must be HOST:PORT or 'none'`)
  }
  return { type: 'tcp', host: parts[1] ?? parts[2] ?? '', port }
}

async function bringUp(host: Host, log: Log): Promise<void> {
  for (const resource of host.resources.values()) {
    const { code, text, detail } = await resource.command({ command: 'up' })
    if (code !== 0) log.error({ resource: resource.name, code, detail }, `cannot be brought up: ${text}`)
  }
}

/** Resolves with the reason when the daemon is told to end; told twice, it ends at once. */
function endSignal(untilStdinEnds: boolean, log: Log): Promise<string> {
  return new Promise((resolve) => {
    let told = false
    const onSignal = (signal: NodeJS.Signals): void => {
      if (told) {
        log.warn({}, `${signal} again: ending at once`)
        process.exit(EXIT_HANGS)
      }
      told = true
      resolve(signal)
    }
    process.on('SIGTERM', onSignal)
    process.on('SIGINT', onSignal)
    process.on('SIGHUP', () => log.info({}, 'SIGHUP: nothing to do'))
    if (!untilStdinEnds) return
    process.stdin.on('end', () => resolve('standard input has ended'))
    process.stdin.on('error', () => resolve('standard input is broken'))
    process.stdin.resume()
  })
}

async function end(host: Host, server: ControlServer, log: Log): Promise<void> {
  const timer = setTimeout(() => {
    log.error({}, `not at the end after ${END_TIMEOUT_MS} ms: ending at once`)
    process.exit(EXIT_HANGS)
  }, END_TIMEOUT_MS)
  await Promise.all([...host.resources.values()].map((resource) => resource.stop(DOWN_TIMEOUT_MS)))
  await server.close()
  clearTimeout(timer)
  process.stdin.destroy()
  log.info({}, 'ended')
}

/** A mistake of our own ends the process at once, so that the peer carries on; the log says which it was. */
function endOnOwnMistake(log: Log): void {
  const onMistake = (error: unknown): void => {
    const stack = error instanceof Error ? error.stack : String(error)
    log.fatal({ stack, code: error instanceof AppError ? error.code : undefined }, `internal error: ${String(error)}`)
    process.exit(EXIT_CRASH)
  }
  process.on('uncaughtException', onMistake)
  process.on('unhandledRejection', onMistake)
}
