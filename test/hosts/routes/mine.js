export default async (app) => {
  app.get('/mine', { onRequest: app.accounts.authenticate }, (request) => request.account)
}
