// Draws cartoon people: one JSON object of options for the style "avataaars" a line on standard
// input, one PNG of 64x64 pixels on white, in Base64, a line on standard output.
//
//   npm install @dicebear/core@9.4.3 @dicebear/collection@9.4.3 @resvg/resvg-js@2.6.2
import { createInterface } from "node:readline";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { join } from "node:path";

// The packages lie where npm was run, which need not be beside this file.
const packages = createRequire(join(process.cwd(), "package.json"));
const load = (name) => import(pathToFileURL(packages.resolve(name)).href);
const { createAvatar } = await load("@dicebear/core");
const { avataaars } = await load("@dicebear/collection");
const { Resvg } = await load("@resvg/resvg-js");

const canvas = { fitTo: { mode: "width", value: 64 }, background: "#ffffff" };
for await (const line of createInterface({ input: process.stdin })) {
  const picture = createAvatar(avataaars, JSON.parse(line)).toString();
  const png = Buffer.from(new Resvg(picture, canvas).render().asPng());
  process.stdout.write(`${png.toString("base64")}\n`);
}
