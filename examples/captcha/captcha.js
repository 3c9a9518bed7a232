// Asks for a captcha where robots try, and only there. Turnstile and hCaptcha verify a proof alike.
// Register it after fastify-accounts: await app.register(captcha, { secret: process.env.CAPTCHA_SECRET })
import fp from 'fastify-plugin'

export const turnstile = 'https://challenges.cloudflare.com/turnstile/v0/siteverify'
export const hcaptcha = 'https://api.hcaptcha.com/siteverify'

/** How much of a limit may be used up without a proof; registrations and mails always need one. */
const free = { password: 0.3, change: 1, register: 0, mail: 0 }

async function captcha(app, { secret, url = turnstile }) {
  // One request may be asked about more than once, while its proof is good once.
  const verdicts = new WeakMap()

  app.accounts.addHook('beforeAttempt', async ({ act, share, client: { request, ip } }) => {
    if (share <= free[act] && free[act] > 0) return
    // The page sends the widget's response in this header.
    const proof = request?.headers['x-captcha']
    if (!proof) throw captchaRequired()
    if (!verdicts.has(request)) verdicts.set(request, isHuman(proof, ip))
    if (!(await verdicts.get(request))) throw captchaRequired()
  })

  async function isHuman(response, remoteip) {
    const body = new URLSearchParams({ secret, response, remoteip })
    // The hook has two seconds; whatever fails here refuses the request, too.
    const answer = await fetch(url, { method: 'POST', body })
    if (!answer.ok) throw Object.assign(new Error('No captcha can be checked now.'), { statusCode: 503 })
    const { success } = await answer.json()
    return success === true
  }
}

function captchaRequired() {
  return Object.assign(new Error('Please solve the captcha.'), { statusCode: 403, code: 'CAPTCHA_REQUIRED' })
}

export default fp(captcha, { dependencies: ['fastify-accounts'] })
