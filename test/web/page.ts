/** The console as a person uses it: enters, goes to a page, clicks what has a name, types, says yes. */
import { join } from 'node:path'
import type { Browser } from '../support/services/chromium.ts'

export class ConsolePage {
  readonly #browser: Browser
  readonly #url: string

  constructor(browser: Browser, port: number) {
    this.#browser = browser
    this.#url = `http://127.0.0.1:${port}/`
  }
  async enter(token: string): Promise<void> {
    await this.#browser.until("document.querySelector('input[name=token]')")
    await this.#browser.run("document.querySelector('input[name=token]').focus()")
    await this.#browser.type(token)
    await this.#browser.press('Enter')
  }
  open(): Promise<void> {
    return this.#browser.open(this.#url)
  }
  go(hash: string): Promise<void> {
    return this.#browser.run(`void (location.hash = ${JSON.stringify(hash)})`)
  }
  text(): Promise<string> {
    return this.#browser.run<string>('document.body.innerText')
  }
  shows(words: string): Promise<void> {
    return this.#browser.until(`document.body.innerText.includes(${JSON.stringify(words)})`)
  }
  /** Clicks a button or a link by what it is called, once it is there. */
  async click(name: string): Promise<void> {
    const wanted = JSON.stringify(name)
    const found = `[...document.querySelectorAll('main button, header button, main a, main summary')].find((b) => (b.ariaLabel ?? b.innerText) === ${wanted} || b.innerText === ${wanted})`
    await this.#browser.until(found)
    await this.#browser.run(`${found}.click()`)
  }
  async confirm(): Promise<void> {
    await this.#browser.until("document.getElementById('ask').open")
    await this.#browser.run("document.getElementById('ask-yes').click()")
  }
  /** Types a text in the place of what a field holds. */
  async fill(selector: string, text: string): Promise<void> {
    const field = `document.querySelector(${JSON.stringify(selector)})`
    await this.#browser.until(field)
    await this.#browser.run(`${field}.focus(), ${field}.select()`)
    await this.#browser.type(text)
  }
  /** With SLUICE_SCREENSHOTS=FOLDER. */
  async picture(name: string): Promise<void> {
    const folder = process.env['SLUICE_SCREENSHOTS']
    if (folder) await this.#browser.screenshot(join(folder, `${name}.png`))
  }
}
