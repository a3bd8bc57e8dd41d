// DRBD's numbers -> text and exit code of the tools (config-and-tools.md 4.2, 4.3, 4.4). Scripts look for the number in
// brackets.

import type { CommandReply } from '../control/api.ts'

const STATE_CHANGE_EXITS: ReadonlyMap<number, number> = new Map([
  [-2, 17],
  [-4, 16],
  [-9, 0],
  [-16, 5],
])

export function exitCodeOf({ code }: CommandReply): number {
  if (code === 0 || code === 101) return 0
  if (code > 0) return 10
  return STATE_CHANGE_EXITS.get(code) ?? 11
}

/** What to do about it, where that is not obvious. */
const HINTS: ReadonlyMap<number, string> = new Map([
  [-1, 'set allow-two-primaries, or run `coprime secondary` on the peer'],
  [
    -2,
    'no reachable disk is UpToDate; for new disks: coprime new-current-uuid --clear-bitmap RES/0, once, on one host',
  ],
  [-7, 'the peer may still be writing: fence it, or connect to it'],
  [-12, 'an NBD client has an export open: end it, or use --force'],
  [119, 'for a new disk run: coprime create-md'],
])

/** One line, e.g. `r0: State change failed: (-2) Need access to UpToDate data`. */
export function failureText(object: string, { code, text, detail }: CommandReply): string {
  const kind = code < 0 ? 'State change failed' : 'Failure'
  const more = [detail, HINTS.get(code)].filter((part) => part !== undefined)
  return [`${object}: ${kind}: (${code}) ${text}`, ...more].join(': ')
}
