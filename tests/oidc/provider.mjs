// A real OpenID Connect provider on 127.0.0.1, configured by its environment. It signs in
// whoever `ada` or `grace` is, and takes them out again on request.
import { generateKeyPairSync, randomUUID } from "node:crypto";
import { Provider } from "oidc-provider";

const port = Number(process.env.PORT);
const callback = process.env.CALLBACK;
const issuer = `http://127.0.0.1:${port}`;
const groups = { ada: ["sre"], grace: ["payments"], nobody: [] };
const gone = new Set();
// Whether refresh tokens count once, and for how many milliseconds each response with new ones waits.
let rotates = false, delay = 0;
// Other keys each time it starts, as after a rotation.
const key = { ...generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey.export({ format: "jwk" }), kid: randomUUID(), use: "sig", alg: "RS256" };

const provider = new Provider(issuer, {
  clients: [{
    client_id: "almenara",
    client_secret: process.env.SECRET,
    redirect_uris: [callback],
    grant_types: ["authorization_code", "refresh_token"],
    response_types: ["code"],
    backchannel_logout_uri: process.env.LOGOUT,
    backchannel_logout_session_required: true,
    post_logout_redirect_uris: [],
  }],
  jwks: { keys: [key] },
  claims: { openid: ["sub"], profile: ["preferred_username", "groups"] },
  conformIdTokenClaims: false,
  pkce: { required: () => true },
  features: { backchannelLogout: { enabled: true }, devInteractions: { enabled: false }, rpInitiatedLogout: { enabled: true } },
  // The notified server is on this machine, which the provider would rather not call.
  fetch: (url, options) => globalThis.fetch(url, { ...options, dispatcher: undefined }),
  ttl: { AccessToken: 60, IdToken: 60, RefreshToken: 3600, Session: 3600, Grant: 3600, Interaction: 600, AuthorizationCode: 60 },
  issueRefreshToken: async () => true,
  rotateRefreshToken: () => rotates,
  interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
  findAccount: async (ctx, id) => gone.has(id) ? undefined : ({
    accountId: id,
    claims: async () => ({ sub: id, preferred_username: id, groups: groups[id] ?? [] }),
  }),
});

provider.use(async (ctx, next) => {
  console.log(ctx.method, ctx.path);
  const control = ctx.path.match(/^\/control\/(gone|groups|logout|rotate)\/(\w+)(?:\/(\w*))?$/);
  if (control) {
    const [, what, who, more] = control;
    if (what === "gone") gone.add(who);
    if (what === "rotate") { rotates = true; delay = Number(who); }
    if (what === "groups") groups[who] = more ? [more] : [];
    ctx.body = "done";
    return;
  }
  const interaction = ctx.path.match(/^\/interaction\/([\w-]+)$/);
  if (interaction) {
    const details = await provider.interactionDetails(ctx.req, ctx.res);
    const who = ctx.cookies.get("who") ?? "ada";
    if (details.prompt.name === "login") {
      await provider.interactionFinished(ctx.req, ctx.res, { login: { accountId: who } });
    } else {
      const grant = new provider.Grant({ accountId: details.session.accountId, clientId: details.params.client_id });
      grant.addOIDCScope("openid profile email offline_access");
      const consent = { grantId: await grant.save() };
      await provider.interactionFinished(ctx.req, ctx.res, { consent });
    }
    ctx.respond = false;
    return;
  }
  await next();
  if (ctx.path === "/token" && rotates) {
    console.log("new tokens are issued");
    await new Promise((done) => setTimeout(done, delay));
  }
});
provider.on("server_error", (ctx, error) => console.error(error));
provider.on("backchannel.error", (ctx, error) => console.error(error));
provider.on("backchannel.success", () => console.log("a logout token was accepted"));
provider.listen(port, "127.0.0.1", () => console.log("ready"));
