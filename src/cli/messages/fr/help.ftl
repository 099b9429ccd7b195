## Help, which clap's definitions hold in English (src/cli/help.rs)

help-heading-usage = Utilisation :
help-heading-commands = Commandes :
help-heading-subcommands = COMMANDES
help-heading-arguments = Arguments :
help-heading-options = Options :
help-heading-values = Valeurs possibles :
help-command = COMMANDE
help-value = - { $value } : { $help }
help-fact-variable = [environnement : { $variable }]
help-fact-default = [par défaut : { $value }]
help-fact-values = [valeurs possibles : { $values }]

# What several commands have

help--help = Afficher l’aide
help--help-short = Afficher l’aide (plus complète avec « --help »)
help--help-long = Afficher l’aide (résumée avec « -h »)
help--version = Afficher la version
help--store = Dossier du dépôt de modèles [par défaut : le vôtre ; celui de la machine est lu aussi]
help--config = Le seul fichier de réglages [par défaut : ceux de gptossd]
help--offline = N’ouvrir aucune autre connexion que celle du bus : une récupération n’utilise que ce qui est sur cette machine
help--json = Écrire du JSON, pour les programmes
help--bus = Le bus sur lequel se trouve le démon
help--bus--system = Le démon de la machine
help--bus--session = Celui de l’utilisateur
help--socket = Le socket du démon, à la place d’un bus
help--catalog = Un catalogue à vous : un fichier TOML qui fixe révisions et empreintes
help--target = Pour quoi exporter, séparé par des virgules : cpu, portable, cuda, cuda-int4, coreml
help--key = Une clé publique de minisign dont la signature compte aussi
help--model = Un modèle installé : NOM ou NOM@RÉVISION
help--effort = Combien de temps le modèle peut réfléchir : low, medium ou high
help--instructions = Instructions, avant tout le reste
help--max-tokens = Nombre maximal de jetons d’une réponse
help--max-reasoning-tokens = Nombre maximal de jetons de raisonnement ; ensuite la réponse commence
help--temperature = 0 prend toujours le jeton le plus probable
help--seed = Rendre reproductible une réponse tirée au hasard
help--threads = Fils d’exécution [par défaut : un par cœur physique]
help--chunk = Nombre maximal de jetons calculés à la fois

# gptoss-ctl

help-gptoss-ctl = Récupérer, vérifier et exécuter sur cette machine les modèles gpt-oss d’OpenAI
help-help = Afficher cette aide ou celle des commandes données

help-pull = Récupérer un modèle, vérifier ses octets et l’exporter
help-pull--model = 20b, 120b, nano, un nom du catalogue, hf:PROPRIÉTAIRE/NOM[@RÉVISION], ou oci://HÔTE[:PORT]/NOM[:ÉTIQUETTE|@sha256:EMPREINTE] pour un lot dans un registre
help-pull--endpoint = D’où récupérer : un hub, un de ses miroirs, ou file:///DOSSIER [par défaut : HF_ENDPOINT, sinon le hub]
help-pull--own-copy = Récupérer dans votre propre dépôt ce que celui de la machine a déjà
help-pull--name = Nom dans le dépôt d’un modèle récupéré avec hf: ou oci: [par défaut : PROPRIÉTAIRE--NOM, celui du modèle publié, celui du lot]
help-pull--plain-http = Parler HTTP sans TLS à un registre, ou non [par défaut : seulement sur l’interface de bouclage de cette machine]
help-pull--no-cache = Ne rien prendre du cache des outils de Hugging Face
help-pull--jobs = Fichiers récupérés en même temps
help-pull--connections = Connexions simultanées, tous fichiers confondus : celles dont aucun fichier n’a besoin pour lui-même récupèrent des plages des plus gros
help-pull--range-size = Octets qu’une connexion récupère à la fois d’un fichier qui en a plusieurs : 64M ; un fichier de moins de deux plages n’en a qu’une [par défaut : 64 Mio]
help-pull--limit-rate = Nombre maximal d’octets par seconde, tous fichiers confondus : 10M, 500k
help-pull--retries = Tentatives de suite qui peuvent ne rien apporter avant l’abandon
help-pull--stall-timeout = Secondes après lesquelles une connexion silencieuse est coupée

help-plan = Dire ce qu’un modèle prend de disque et de mémoire, avant qu’il ne soit là
help-plan--model = Un modèle installé, le dossier d’un point de contrôle, ou 20b, 120b, nano ou un autre nom du catalogue
help-plan--target = Exports à prévoir, séparés par des virgules : cpu, portable, cuda, cuda-int4, coreml ; la mémoire est celle du premier
help-plan--context = Tailles de contexte, séparées par des virgules [par défaut : celle du démon et quelques autres]
help-plan--kv-cache = De quoi est fait le cache clé-valeur, f16 ou int8 [par défaut : comme le démon]
help-plan--parallel = Requêtes calculées ensemble [par défaut : comme le démon]

help-import = Installer un point de contrôle ou un lot qui est déjà sur cette machine
help-import--dir = Dossier d’un point de contrôle, tel que publié ou tel que transformers enregistre un affinage, ou un lot
help-import--name = Nom dans le dépôt [par défaut : celui du modèle publié, sinon celui du dossier]

help-bundle = Porter des modèles vers des machines sans réseau
help-bundle-create = Écrire un modèle installé dans un dossier ou un fichier tar
help-bundle-create--output = Où l’écrire : un fichier tar si le nom finit par .tar, sinon un nouveau dossier
help-bundle-create--split = Couper le fichier tar en morceaux de cette taille au plus : 4G, 650M
help-bundle-create--with-runtime = Y mettre aussi ONNX Runtime, pour que le support soit tout ce qu’il faut à une machine en plus des programmes : pour cette plateforme, ou pour celles désignées : linux-x86_64, linux-aarch64
help-bundle-create--runtime-dir = Un dossier avec la bibliothèque ONNX Runtime, tel que packaging/runtime/fetch le fait, ou avec un dossier par plateforme [par défaut : là où ce programme trouve la sienne]
help-bundle-create--sign = Le signer avec cette clé secrète de minisign
help-bundle-verify = Vérifier les octets et la signature d’un lot ; rien n’est installé
help-bundle-verify--path = Le lot : un fichier tar, le premier de ses morceaux, ou un dossier
help-bundle-verify--model = Le modèle, si le lot en contient plusieurs
help-bundle-import = Installer un modèle depuis un lot
help-bundle-import--path = Le lot : un fichier tar, le premier de ses morceaux, ou un dossier
help-bundle-import--name = Nom dans le dépôt [par défaut : celui du modèle publié, sinon celui du lot]
help-bundle-import--model = Le modèle, si le lot en contient plusieurs
help-bundle-import--no-runtime = Laisser de côté ONNX Runtime si le lot le contient

help-list = Lister les modèles installés

help-show = Afficher les fichiers d’un modèle, leurs empreintes et leur provenance
help-show--provenance = D’où vient chaque octet, qui en répond, et ce qui en a été fait, et comment

help-verify = Vérifier à nouveau les octets d’un modèle
help-verify--files = Nommer chaque fichier, et le fichier publié dont il a les octets
help-verify--catalog = Chercher aussi les empreintes dans un catalogue à vous [par défaut : celui qui a fixé le modèle]
help-verify--repair = Rétablir ce qui est abîmé, et cela seul : depuis l’origine du modèle, ou depuis --from ou --endpoint. Ce qui a été exporté l’est à nouveau
help-verify--from = Réparer depuis le dossier d’un point de contrôle ou un lot sur cette machine
help-verify--endpoint = Réparer depuis ce serveur : un hub, un de ses miroirs, ou oci://HÔTE[:PORT]/NOM dans un registre
help-verify--plain-http = Parler HTTP sans TLS à un registre, ou non [par défaut : seulement sur l’interface de bouclage de cette machine]

help-rm = Supprimer un modèle
help-rm--model = Un modèle : NOM, ou NOM@RÉVISION s’il y en a plusieurs
help-rm--all = Supprimer toutes les révisions du modèle

help-gc = Supprimer ce dont plus personne n’a besoin
help-gc--superseded = Aussi les révisions dont une plus récente est installée, et ONNX Runtime pour CUDA d’autres versions
help-gc--dry-run = Dire seulement ce qui serait supprimé

help-export = Exporter un modèle installé pour une autre cible
help-export--force = Exporter à nouveau ce qui est déjà exporté

help-run = Poser une question à un modèle par l’intermédiaire du démon
help-run--model = Le modèle, tel que « gptoss-ctl list » le montre
help-run--prompt = La requête ; « - » ou rien la lit sur l’entrée standard. Ce qui arrive par un tube est ajouté à la requête donnée
help-run--file = Un fichier texte à ajouter à la requête ; peut être donné plusieurs fois
help-run--show-reasoning = Afficher aussi le raisonnement du modèle, sur la sortie d’erreur
help-run--schema = Un fichier avec le schéma JSON que la réponse doit suivre

help-chat = Converser avec un modèle dans le terminal
help-chat--model = Le modèle, tel que « gptoss-ctl list » le montre ; s’il n’est pas donné, celui du démon par défaut
help-chat--reasoning = Comment le raisonnement du modèle est affiché
help-chat--reasoning--dim = Au fur et à mesure, en atténué
help-chat--reasoning--fold = Une ligne ; « /show » le montre
help-chat--reasoning--hide = Pas du tout
help-chat--on-overflow = Ce qui arrive quand la conversation ne tient plus dans le contexte : une erreur, ou ses plus anciens tours sont oubliés
help-chat--plain = Afficher les réponses telles quelles, sans la mise en forme de markdown
help-chat--history = Garder ce que vous entrez pour les conversations suivantes, dans $XDG_STATE_HOME/gptoss/chat_history, que vous seul pouvez lire. Sans cela, aucun fichier n’est écrit

help-load = Faire charger un modèle par le démon
help-load--model = Le modèle, tel que « gptoss-ctl list » le montre ; celui par défaut s’il n’est pas donné
help-unload = Faire décharger son modèle par le démon
help-status = Afficher l’état du démon

help-eval = Calculer les logits de jetons donnés, dans le processus
help-eval--model = Un modèle installé, ou le chemin d’un dossier de révision
help-eval--tokens = Les jetons : une liste JSON de {"{"}"ids": [..], "positions": [..], "prefill": K{"}"}
help-eval--logits = Où vont les logits : p{"{"}i{"}"}_logits, f32 [positions, vocabulaire]
help-eval--perplexity = Log-vraisemblance négative moyenne et perplexité d’un texte, lu par fenêtres de --context jetons (512 par défaut), chacune avec un cache vide
help-eval--target = Lequel des exports du modèle
help-eval--exact = Calculer avec des activations en float32 ; lent
help-eval--kv-cache = De quoi est fait le cache clé-valeur : f16, f32 ou int8 [par défaut : comme exporté, f32 avec --exact]
help-eval--greedy = Continuer chaque requête au plus probable : p{"{"}i{"}"}_greedy, i64 [N], jetons de fin ignorés
help-eval--stream-experts = Laisser les experts sur le disque et en garder en mémoire autant que cette taille (6G) le permet, ou que la mémoire libre ; lent
help-eval--context = Positions du cache clé-valeur [par défaut : autant que les requêtes en demandent]

help-bench = Mesurer les jetons par seconde, dans le processus
help-bench--model = Un modèle installé, ou le chemin d’un dossier de révision
help-bench--n-prompt = Longueurs de requête à mesurer, séparées par des virgules ; 0 pour aucune
help-bench--n-gen = Nombres de jetons à générer, séparés par des virgules ; 0 pour aucun
help-bench--n-depth = Jetons déjà dans le cache, séparés par des virgules
help-bench--parallel = Séquences générées ensemble, séparées par des virgules
help-bench--noise = Remplir le cache de bruit jusqu’à la profondeur au lieu de le calculer : les temps sont les mêmes, et un contexte profond ne coûte pas des minutes
help-bench--repetitions = Répétitions de chaque mesure
help-bench--target = Lequel des exports du modèle
help-bench--context = Positions du cache clé-valeur [par défaut : autant que les mesures en demandent]
help-bench--kv-cache = De quoi est fait le cache clé-valeur : f16, f32 ou int8 [par défaut : comme exporté]
help-bench--no-spinning = Laisser dormir les fils d’exécution entre les opérateurs au lieu d’attendre activement
help-bench--no-prefault = Lire les poids à la demande au lieu du début
help-bench--stream-experts = Laisser les experts sur le disque et en garder en mémoire autant que cette taille (6G) le permet, ou que la mémoire libre ; lent. Dit quelle part de la vitesse du disque est utilisée
help-bench--profile = Dire combien de temps chaque opérateur a pris ; tout est alors plus lent
help-bench--replay = Au lieu de tout cela : de combien une réponse vient plus vite quand ses jetons sont devinés d’après ce qui précède. Le modèle calcule, mais dit ANSWER
help-bench--over-dbus = Au lieu de tout cela : interroger le démon en marche, et dire ce que coûte le passage par D-Bus
help-bench--bus = Le bus sur lequel se trouve ce démon
help-bench--plot = Tracer les jetons par seconde selon la profondeur

help-runtime = Afficher quelle bibliothèque ONNX Runtime est utilisée, ou en apporter une
help-runtime--bus = Quelle quarantaine compte : celle du démon sur ce bus
help-runtime--provider = N’essayer que ce fournisseur d’exécution : auto, cuda, coreml ou cpu [par défaut : auto]
help-runtime-install = Apporter ONNX Runtime dans le dépôt : la version pour le processeur, ou pour CUDA
help-runtime-install--cuda = La version pour CUDA 13, avec les bibliothèques de CUDA et cuDNN qu’elle charge
help-runtime-install--from = Un dossier avec les wheels, pour une machine sans réseau
help-runtime-install--index = Un index de paquets Python qui parle la PEP 691
help-runtime-install--accept-nvidia-license = Accepter les licences de NVIDIA pour CUDA et cuDNN sans que la question soit posée
help-runtime-install--limit-rate = Nombre maximal d’octets par seconde : 10M, 500k
help-runtime-remove = Supprimer du dépôt ce que « runtime install » ou un lot a apporté
help-runtime-remove--cuda = La version pour CUDA, avec les bibliothèques de CUDA et cuDNN

help-doctor = Chercher ce qui ne va pas sur cette machine, et dire quoi faire

help-selftest = Exécuter le modèle embarqué sur chaque fournisseur d’exécution et comparer ses logits
help-selftest--retry = Essayer aussi les fournisseurs en quarantaine, et en sortir ceux qui fonctionnent
help-selftest--report = Écrire dans ce fichier ce qu’il faut pour signaler une panne ; « - » pour la sortie standard
help-selftest--bus = Quelle quarantaine compte : celle du démon sur ce bus

help-completions = Écrire ce qu’il faut à un shell pour compléter la ligne de commande
help-completions--shell = Pour quel shell

help-man = Écrire le manuel
help-man--output = Écrire toutes les pages dans ce dossier, comme le font les paquets
help-man--command = La page de cette commande, par exemple « bundle create » ; de gptossd ; ou de gptossd.toml [par défaut : celle de gptoss-ctl]

# gptossd, whose page gptoss-ctl writes

help-gptossd = Le démon d’inférence pour les modèles gpt-oss d’OpenAI

    Il répond aux applications locales sur D-Bus, sous le nom org.gptoss.Daemon1, et sans bus sur un socket à lui. Il n’a pas de réseau ; « gptoss-ctl » récupère les modèles.
help-gptossd--bus = Le bus à servir [par défaut : system, ou aucun avec --socket]
help-gptossd--bus--system = Un démon pour la machine
help-gptossd--bus--session = Un démon à l’utilisateur
help-gptossd--socket = Servir ici sur un socket Unix, pour cet utilisateur et root seuls. Aucun bus n’est nécessaire
help-gptossd--config = Lire ce fichier de réglages au lieu de ceux qui sont installés
help-gptossd--store = Dossier du dépôt de modèles [par défaut : celui de l’utilisateur, puis celui de la machine]
help-gptossd--simulate = Répondre d’après un script, sans aucun modèle
help-gptossd--check-config = Vérifier les réglages et terminer
