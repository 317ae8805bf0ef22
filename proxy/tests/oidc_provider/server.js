// A certified OpenID Connect provider (npm's oidc-provider) for proxy/tests/oidc_provider.rs. It prints its issuer on a line of its own
// once it listens, and ends when its standard input does.
//
// Arguments: the redirect URL of the client `sidegate`, and the audience of the API.
import { generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:http';
import Provider from 'oidc-provider';

const [redirect, audience] = process.argv.slice(2);
const key = (kind, options, more) => ({
  ...generateKeyPairSync(kind, options).privateKey.export({ format: 'jwk' }),
  ...more,
});

const configuration = {
  jwks: {
    keys: [
      key('rsa', { modulusLength: 2048 }, { kid: 'rsa', use: 'sig' }),
      key('ec', { namedCurve: 'P-256' }, { kid: 'ec', use: 'sig' }),
    ],
  },
  cookies: { keys: ['only-for-tests'] },
  clients: [
    { client_id: 'sidegate', client_secret: 'sidegate-secret', redirect_uris: [redirect] },
    // A program on a person's machine, which has access tokens for the API.
    {
      client_id: 'tool',
      client_secret: 'tool-secret',
      redirect_uris: ['https://tool.example/callback'],
    },
    {
      client_id: 'robot',
      client_secret: 'robot-secret',
      redirect_uris: [],
      response_types: [],
      grant_types: ['client_credentials'],
    },
  ],
  claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name', 'preferred_username'] },
  features: {
    clientCredentials: { enabled: true },
    // Signing in is a form: any name, any password.
    devInteractions: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (_, resource) => ({
        scope: 'read write',
        audience: resource === `${audience}/` ? audience : resource,
        accessTokenFormat: 'jwt',
        jwt: { sign: { alg: 'ES256' } },
      }),
      useGrantedResource: () => true,
    },
  },
  formats: {
    customizers: {
      // RFC 9068 §2.2.1: when the person signed in.
      jwt(ctx, token, jwt) {
        const code = ctx.oidc.entities.AuthorizationCode;
        if (code?.authTime) jwt.payload.auth_time = code.authTime;
      },
    },
  },
  // Nobody is asked for consent.
  async loadExistingGrant(ctx) {
    const { client, session, params } = ctx.oidc;
    const grant = new ctx.oidc.provider.Grant({ clientId: client.clientId, accountId: session.accountId });
    grant.addOIDCScope(params.scope);
    if (params.resource) grant.addResourceScope(params.resource, 'read write');
    await grant.save();
    return grant;
  },
  findAccount: (_, id) => ({
    accountId: id,
    claims: () => ({
      sub: id,
      email: `${id}@example.com`,
      email_verified: true,
      name: id,
      preferred_username: id,
    }),
  }),
  ttl: { AccessToken: 600, ClientCredentials: 600, IdToken: 600, Interaction: 600, Session: 3600, Grant: 3600 },
};

const server = createServer();
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  server.on('request', new Provider(issuer, configuration).callback());
  console.log(`issuer ${issuer}`);
});
process.stdin.on('end', () => process.exit(0)).resume();
