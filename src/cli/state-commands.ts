// Commands that change the state of resources through the daemon: all of them have the same shape (objects in, DRBD's
// number out), so they share one function; what tells them apart stands in the table of main.ts.

import type { CommandName, CommandReply, CommandRequest } from '../control/api.ts'
import { StartError } from '../daemon/errors.ts'
import { type Context, EXIT_OK } from './context.ts'
import { exitCodeOf, failureText } from './exit-codes.ts'
import { type Target, targetsOf } from './objects.ts'

export interface StateCommandOptions {
  readonly force?: boolean
  readonly overwriteDataOfPeer?: boolean
  readonly discardMyData?: boolean
  readonly clearBitmap?: boolean
  readonly size?: string
  readonly assumeClean?: boolean
  readonly start?: string
  readonly stop?: string
}

/** From here on nothing can be done for the objects that are left (config-and-tools.md 4.1). */
const EXIT_ENDS_RUN = 20

/** Runs the command for each object; the highest code counts. */
export async function runStateCommand(
  context: Context,
  command: CommandName,
  objects: readonly string[],
  options: StateCommandOptions,
): Promise<number> {
  const { resources } = await context.client.status()
  const results: { readonly object: string; readonly reply: CommandReply; readonly exitCode: number }[] = []
  for (const target of targetsOf(objects, resources)) {
    const reply = await context.client.command(target.resource, requestOf(command, target, options))
    const exitCode = exitCodeOf(reply)
    if (exitCode !== EXIT_OK) context.printError(failureText(objectOf(target, reply), reply))
    results.push({ object: target.object, reply, exitCode })
    if (exitCode >= EXIT_ENDS_RUN) break
  }
  if (context.json) {
    const lines = results.map(({ object, reply, exitCode }) => ({ object, ...reply, exitCode }))
    context.print(JSON.stringify(lines))
  }
  return Math.max(EXIT_OK, ...results.map(({ exitCode }) => exitCode))
}

/** The volume is named if the reply is about one that the user did not name. */
function objectOf(target: Target, reply: CommandReply): string {
  const named = target.volume !== undefined || reply.volume === undefined || reply.volume === 0
  return named ? target.object : `${target.resource}/${reply.volume}`
}

/** As drbdadm has it: a number with `s` behind it, or without. */
function sectorOf(option: string, text: string): number {
  const digits = /^([0-9]{1,15})s?$/.exec(text)?.[1]
  if (digits === undefined) {
    throw new StartError('E_ARGUMENT', `${option} ${text}: it is no number of sectors`)
  }
  return Number(digits)
}

const UNIT_SECTORS: ReadonlyMap<string, number> = new Map([
  ['s', 1],
  ['', 2],
  ['K', 2],
  ['M', 2048],
  ['G', 2 ** 21],
  ['T', 2 ** 31],
])

function sizeOf(text: string): number {
  const [, digits, unit] = /^([0-9]{1,12})([sKMGT]?)$/.exec(text) ?? []
  const sectors = Number(digits) * (UNIT_SECTORS.get(unit ?? '') ?? Number.NaN)
  if (!Number.isSafeInteger(sectors)) throw new StartError('E_ARGUMENT', `--size ${text}: it is no size`)
  return sectors
}

function requestOf(command: CommandName, target: Target, options: StateCommandOptions): CommandRequest {
  return {
    command,
    ...(target.volume === undefined ? {} : { volume: target.volume }),
    ...(options.force === true || options.overwriteDataOfPeer === true ? { force: true } : {}),
    ...(options.discardMyData === true ? { discardMyData: true } : {}),
    ...(options.clearBitmap === true ? { clearBitmap: true } : {}),
    ...(options.size === undefined ? {} : { sizeSectors: sizeOf(options.size) }),
    ...(options.assumeClean === true ? { assumeClean: true } : {}),
    ...(options.start === undefined ? {} : { startSector: sectorOf('--start', options.start) }),
    ...(options.stop === undefined ? {} : { stopSector: sectorOf('--stop', options.stop) }),
  }
}
