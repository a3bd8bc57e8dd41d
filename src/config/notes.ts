// What the reading of a configuration gathers besides its tree: warnings, and the names that must be unique.

import { ConfigError, type ConfigWarning, type ConfigWarningCode, type Position } from './config-error.ts'

/** Bounds what a small file can make us check, hosts times names times volumes. */
const CLAIMS_MAX = 1_000_000

export class Notes {
  readonly warnings: ConfigWarning[] = []
  /** One warning for each subject and file. */
  readonly #warned = new Set<string>()
  readonly #disks = new Map<string, Position>()
  readonly #claims = new Map<string, Position>()

  warn(code: ConfigWarningCode, position: Position, message: string): void {
    this.warnings.push({ code, message, position })
  }

  /** The same, unless there was one about this subject in this file. */
  warnOnce(code: ConfigWarningCode, subject: string, position: Position, message: string): void {
    const key = JSON.stringify([code, subject, position.file])
    if (this.#warned.has(key)) return
    this.#warned.add(key)
    this.warn(code, position, message)
  }

  /** Warns when a backing device of a host is used twice: only one of the two can be attached. */
  noteDisk(host: string, path: string, position: Position): void {
    const id = JSON.stringify([host, path])
    const first = this.#disks.get(id)
    if (first === undefined) this.#disks.set(id, position)
    else {
      const message = `disk '${path}' of ${host} is used a second time; first used at ${first.file}:${first.line}.`
      this.warnOnce('shared-disk', id, position, message)
    }
  }

  /** Refuses the second use of something that must be unique; `kind` and `key` are drbdadm's. */
  claim(kind: string, key: string, position: Position): void {
    const id = JSON.stringify([kind, key])
    const first = this.#claims.get(id)
    if (first === undefined) {
      this.#claims.set(id, position)
      if (this.#claims.size <= CLAIMS_MAX) return
      const problem = 'The configuration describes too many hosts and volumes.'
      const hint = `At most ${CLAIMS_MAX} names, addresses, minors and disks in all.`
      throw new ConfigError({ code: 'E_CONFIG_LIMIT', position, problem, hint })
    }
    throw new ConfigError({
      code: 'E_CONFIG_CONFLICT',
      position,
      problem: `conflicting use of ${kind} '${key}' ...\n${first.file}:${first.line}: ${kind} '${key}' first used here.`,
      hint: `Remove one of the two, or give one of them a value of its own (column ${first.column} of the first one).`,
    })
  }
}
