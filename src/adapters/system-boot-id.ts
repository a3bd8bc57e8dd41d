// Which start of this machine we live in: Linux draws a UUID for each. A container has that of its host, whose page cache it
// uses, so it is the right one there as well.

import { readFileSync } from 'node:fs'

const BOOT_ID_PATH = '/proc/sys/kernel/random/boot_id'

/** Undefined where the system does not tell. */
export function systemBootId(path = BOOT_ID_PATH): bigint | undefined {
  let text: string
  try {
    text = readFileSync(path, 'latin1')
  } catch {
    return undefined
  }
  const digits = text.replaceAll('-', '').slice(0, 16)
  return /^[0-9a-f]{16}$/.test(digits) ? BigInt(`0x${digits}`) : undefined
}
