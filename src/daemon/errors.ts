// Why a daemon, a lab or an offline command cannot do what it was asked to: one line and an exit code.

import { AppError } from '../base/errors.ts'

export type StartErrorCode =
  | 'E_ARGUMENT'
  | 'E_RESOURCE_UNUSABLE'
  | 'E_ALREADY_RUNNING'
  | 'E_FOLDER'
  | 'E_LAB'
  | 'E_METADATA'
  | 'E_DECLINED'

export class StartError extends AppError {
  override readonly name = 'StartError'
  readonly code: StartErrorCode
  readonly hint: string
  readonly exitCode: number

  constructor(
    code: StartErrorCode,
    message: string,
    options: { hint?: string; exitCode?: number; cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.code = code
    this.hint = options.hint ?? ''
    this.exitCode = options.exitCode ?? 20
  }
}
