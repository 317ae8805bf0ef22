// The start: what is always there, and which page is at which address.

import * as clusters from "./clusters.js";
import * as corner from "./corner.js";
import * as keys from "./keys.js";
import * as live from "./live.js";
import { activity } from "./pages/activity.js";
import { cluster } from "./pages/cluster.js";
import { missing } from "./pages/missing.js";
import { object } from "./pages/object.js";
import { overview } from "./pages/overview.js";
import { resources } from "./pages/resources.js";
import { settings } from "./pages/settings.js";
import * as router from "./router.js";
import * as sidebar from "./sidebar.js";

corner.start();
clusters.start();
sidebar.start();
keys.start();
router.start([
  ["/", overview],
  ["/clusters/:id", cluster],
  ["/clusters/:id/:kind/:namespace/:name", object],
  ["/resources", resources],
  ["/activity", activity],
  ["/settings", settings],
], missing);
live.start();
