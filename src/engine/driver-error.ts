// A failure with one of DRBD's own numbers (config-and-tools.md 4.3).

export class DriverError extends Error {
  override readonly name = 'DriverError'
  readonly drbdCode: number

  constructor(drbdCode: number, message: string) {
    super(message)
    this.drbdCode = drbdCode
  }
}
