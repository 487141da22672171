// Wires a page that is complete without scripts: live updates, charts, palette, keys.
// Each module does one thing and finds its elements itself; none of them needs another page's markup.

import { start as startCharts } from "./charts.js";
import { start as startDialogs } from "./dialogs.js";
import { start as startDiscovery } from "./discovery.js";
import { start as startHorizon } from "./horizon.js";
import { start as startKeys } from "./keys.js";
import { start as startLists } from "./lists.js";
import { start as startLive } from "./live.js";
import { start as startRun } from "./run.js";
import { start as startSky } from "./sky.js";
import { start as startTheme } from "./theme.js";

startTheme();
startDialogs();
startLists();
startDiscovery();
startRun();
startSky();
startHorizon();
startKeys();
startCharts();
startLive();
