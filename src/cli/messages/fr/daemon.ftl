## What the commands that talk to the daemon share

daemon-unreachable = gptossd ne répond pas ({ $why }) ; démarrez-le avec « systemctl start gptossd », ou un démon à vous avec « gptossd --bus session » et utilisez « --bus session »
daemon-unreachable-socket = gptossd ne répond pas ({ $why }) ; démarrez-le avec « gptossd --socket { $path } ». Il ne répond qu’à son propre utilisateur et à root
daemon-unreachable-own = gptossd ne répond pas ({ $why }) ; démarrez-le avec « gptossd --bus session »

## gptoss-ctl status, load

status-state = état : { $state }
status-loading = état : { $state } { $model } ({ $percent } %)
status-unavailable = état : { $state } ({ $reason }) : { $why }
status-slow = état : { $state } (ralenti : { $reason })
status-idle = état : { $state } (un modèle est chargé à la première requête)
status-unloaded = état : { $state } (déchargé : { $reason } ; la prochaine requête charge un modèle)
status-model = modèle : { $model } sur { $provider }
status-streamed = les experts sont lus sur le disque au besoin, { $memory } de mémoire pour les plus demandés : les réponses sont lentes
status-not-on = pas sur { $provider } : { $why }
status-installed = installés : { $models }
status-none-installed = installés : aucun ; « gptoss-ctl pull 20b » en récupère un

load-loaded = { $model } est chargé
load-gone = le modèle a été chargé puis a laissé sa place, ou un autre a été demandé entre-temps ; « gptoss-ctl status » dit ce qui est là
load-unavailable = le modèle n’est pas disponible ({ $reason }) : { $why }
