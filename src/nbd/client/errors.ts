// What can go wrong for an NBD client.

import { AppError } from '../../base/errors.ts'
import { nbdErrorName } from '../../wire/nbd/constants.ts'

/** The server answered a command with an error; the connection goes on. */
export class NbdCommandError extends AppError {
  override readonly name = 'NbdCommandError'
  readonly code = 'E_NBD_COMMAND'
  readonly hint = 'The name of the error says what the server objects to; its log may say more.'
  /** NBD_E*, and its name (an unknown number counts as EINVAL). */
  readonly error: number
  readonly errorName: string

  constructor(error: number, serverMessage: string) {
    const errorName = nbdErrorName(error)
    super(serverMessage === '' ? errorName : `${errorName}: ${serverMessage}`)
    this.error = error
    this.errorName = errorName
  }
}

/** The server refused an option, so that there is no session. */
export class NbdRefusedError extends AppError {
  override readonly name = 'NbdRefusedError'
  readonly code = 'E_NBD_REFUSED'
  readonly hint = 'Check the name of the export: `nbdinfo --list` shows those that the server has.'
  /** NBD_REP_ERR_* */
  readonly replyType: number

  constructor(replyType: number, serverMessage: string) {
    super(`the server refused (0x${replyType.toString(16)}): ${serverMessage}`)
    this.replyType = replyType
  }
}

/** The server sent something that the protocol does not allow. */
export class NbdProtocolError extends AppError {
  override readonly name = 'NbdProtocolError'
  readonly code = 'E_NBD_PROTOCOL'
  readonly hint = 'Check that an NBD server listens on this address.'
}

/** The connection is gone; a command without an answer may or may not have been carried out. */
export class NbdDisconnectedError extends AppError {
  override readonly name = 'NbdDisconnectedError'
  readonly code = 'E_NBD_DISCONNECTED'
  readonly hint = 'Connect again.'
}

export type NbdClientError = NbdCommandError | NbdRefusedError | NbdProtocolError | NbdDisconnectedError
