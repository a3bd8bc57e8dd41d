// What can go wrong on the way to a daemon and back.

import { AppError } from '../base/errors.ts'

export type ControlErrorCode =
  /** Nobody answers. */
  | 'E_CONTROL_UNREACHABLE'
  /** The daemon went away in the middle. */
  | 'E_CONTROL_LOST'
  /** The daemon answered something that is no answer. */
  | 'E_CONTROL_ANSWER'
  /** The daemon refused the request as such. */
  | 'E_CONTROL_REFUSED'

const HINTS: Readonly<Record<ControlErrorCode, string>> = {
  E_CONTROL_UNREACHABLE: 'Start it with `coprime daemon`, or name its socket with --control.',
  E_CONTROL_LOST: 'Look into the log of the daemon.',
  E_CONTROL_ANSWER: 'Check that the socket belongs to a coprime daemon of this version.',
  E_CONTROL_REFUSED: 'See `coprime help`.',
}

export class ControlError extends AppError {
  override readonly name = 'ControlError'
  readonly code: ControlErrorCode
  readonly hint: string
  /** Of the HTTP reply, if there was one. */
  readonly status: number | undefined

  constructor(code: ControlErrorCode, message: string, options: { status?: number; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.code = code
    this.hint = HINTS[code]
    this.status = options.status
  }
}
