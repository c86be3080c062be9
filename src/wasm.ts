/**
 * The engine's WebAssembly, as far as Sluice uses it: Node's types do not declare it. Who uses it (crc.ts, server/rows/) has another
 * way for an engine without it.
 */

export interface Engine {
  readonly Memory: new (limits: { initial: number }) => { readonly buffer: ArrayBuffer }
  readonly Module: new (bytes: Uint8Array) => object
  readonly Instance: new (
    module: object,
    imports: object,
  ) => { readonly exports: Readonly<Record<string, unknown>> }
}

/** undefined where there is none. */
export const engine = (globalThis as unknown as { readonly WebAssembly?: Engine }).WebAssembly
