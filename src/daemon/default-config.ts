// Which configuration is read if none is named.

import { accessSync, constants } from 'node:fs'

/** The configuration that drbdadm 8.4 would read (config-and-tools.md 1.1). */
export function defaultConfigFile(environment: NodeJS.ProcessEnv = process.env): string {
  const given = environment['COPRIME_CONFIG']
  if (given !== undefined && given !== '') return given
  const names = ['drbd-84', 'drbd-83', 'drbd-82', 'drbd-08', 'drbd'].map((name) => `/etc/${name}.conf`)
  return names.find(isReadable) ?? '/etc/drbd.conf'
}

function isReadable(path: string): boolean {
  try {
    accessSync(path, constants.R_OK)
    return true
  } catch {
    return false
  }
}
