// `coprime lab`: two hosts on this machine, in the foreground; and its commands from another terminal, which find it through
// its folder.

import { resolve } from 'node:path'

import { ControlClient } from '../control/client.ts'
import { ControlError } from '../control/errors.ts'
import type { LabLine, LabStatus } from '../daemon/lab/api.ts'
import { type Context, EXIT_OK } from './context.ts'

export interface LabCommandOptions {
  readonly dir: string
  readonly size?: string
  readonly order: string
  readonly writeNowAcks?: boolean
  readonly protocol: string
  readonly linkDelayMs: string
  readonly restart?: boolean
  readonly logLevel: string
}

export async function runLab(context: Context, options: LabCommandOptions): Promise<number> {
  const { parseDelayMs, parseOrder, parseProtocol, parseSizeBytes } = await import('../daemon/lab/options.ts')
  const protocol = parseProtocol(options.protocol)
  const { Lab } = await import('../daemon/lab/lab.ts')
  const lab = new Lab(
    {
      folder: resolve(options.dir),
      sizeBytes: options.size === undefined ? undefined : parseSizeBytes(options.size),
      protocol,
      order: parseOrder(options.order, protocol),
      writeNowAcks: options.writeNowAcks ?? false,
      linkDelayMs: parseDelayMs(options.linkDelayMs, '--link-delay-ms'),
      restart: options.restart ?? false,
      logLevel: options.logLevel,
    },
    (line) => context.printError(`lab: ${line}`),
  )
  let signalled = false
  const onSignal = (): void => {
    signalled = true
    void lab.stop()
  }
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, onSignal)
  try {
    const line = await lab.start()
    context.print(context.json ? JSON.stringify(line) : textOf(line, options))
  } catch (error) {
    if (!signalled) throw error // else it was told to stop before it was ready, and has stopped
  }
  await lab.ended
  return EXIT_OK
}

function textOf({ a, b, dashboard }: LabLine, { dir, protocol, order }: LabCommandOptions): string {
  return `Two hosts, one disk, protocol ${protocol}, order ${order}; files in ${resolve(dir)}

  a  ${a.nbd}
  b  ${b.nbd}
  dashboard  ${dashboard}

Try: nbdinfo '${a.nbd}'
From another terminal: coprime lab kill a|b, restart a|b, cut, heal, delay MS, status, stop
Ctrl-C stops both.`
}

export type LabAction = 'kill' | 'restart' | 'cut' | 'heal' | 'delay' | 'status' | 'stop'

/** `argument`: the side, or the delay. */
export async function runLabAction(
  context: Context,
  action: LabAction,
  options: { readonly dir: string },
  argument = '',
): Promise<number> {
  const { labPaths, resolvedFolder } = await import('../daemon/lab/folder.ts')
  const { parseDelayMs, parseSide } = await import('../daemon/lab/options.ts')
  const folder = resolvedFolder(resolve(options.dir))
  const client = new ControlClient(labPaths(folder).socket)
  try {
    switch (action) {
      case 'kill':
      case 'restart':
        return printStatus(context, await client.post<LabStatus>(`/${action}`, { side: parseSide(argument) }))
      case 'delay':
        return printStatus(context, await client.post('/delay', { delayMs: parseDelayMs(argument, 'delay') }))
      case 'cut':
      case 'heal':
        return printStatus(context, await client.post<LabStatus>(`/${action}`, {}))
      case 'status':
        return printStatus(context, await client.get<LabStatus>('/status'))
      case 'stop':
        await client.post('/stop', {})
        if (context.json) context.print(JSON.stringify({ stopped: true }))
        return EXIT_OK
    }
  } catch (error) {
    if (!(error instanceof ControlError) || error.code !== 'E_CONTROL_UNREACHABLE') throw error
    const { StartError } = await import('../daemon/errors.ts')
    const hint = 'Start one with `coprime lab`, or name its folder with --dir.'
    throw new StartError('E_LAB', `${folder}: no lab is running here`, { hint, cause: error })
  }
}

function printStatus(context: Context, status: LabStatus): number {
  if (context.json) context.print(JSON.stringify(status))
  else context.print([sideText('a', status), sideText('b', status), linkText(status)].join('\n'))
  return EXIT_OK
}

function sideText(name: 'a' | 'b', status: LabStatus): string {
  const { pid, report } = status[name]
  if (pid === null) return `${name}: not running`
  const resource = report?.resources[0]
  if (resource === undefined) return `${name}: pid ${pid}, starting`
  const volume = resource.volumes[0]
  const frozen = (volume?.suspended.length ?? 0) > 0 ? ', I/O frozen' : ''
  const left =
    volume === undefined || volume.outOfSyncBlocks === 0 ? '' : `, ${volume.outOfSyncBlocks * 4} KiB out of sync`
  return `${name}: pid ${pid}, ${resource.role}, ${volume?.disk}, ${volume?.connection}${left}${frozen}`
}

function linkText({ link }: LabStatus): string {
  const delay = link.delayMs > 0 ? `, ${link.delayMs} ms each way` : ''
  return `link: ${link.cut ? 'cut' : 'whole'}${delay}`
}
