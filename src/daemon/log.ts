// The log: one JSON object per line, to a file or to standard error. Synchronous: lines are few, and the last ones before an
// end are those that matter.

import { pino } from 'pino'

import { StartError } from './errors.ts'

export const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const

/** The part of a pino logger that the daemon uses. */
export interface Log {
  debug(fields: object, message: string): void
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
  fatal(fields: object, message: string): void
}

const STANDARD_ERROR = 2

export function openLog(options: {
  readonly level: string
  readonly file: string | undefined
  readonly host: string
}): Log {
  if (!(LOG_LEVELS as readonly string[]).includes(options.level)) {
    throw new StartError('E_ARGUMENT', `--log-level ${options.level}: must be one of ${LOG_LEVELS.join(', ')}`)
  }
  const settings = {
    level: options.level,
    base: { host: options.host, pid: process.pid },
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
  }
  try {
    const dest = options.file ?? STANDARD_ERROR
    return pino(settings, pino.destination({ dest, sync: true, mkdir: false }))
  } catch (cause) {
    throw new StartError('E_ARGUMENT', `--log-file ${options.file}: ${(cause as Error).message}`, { cause })
  }
}
