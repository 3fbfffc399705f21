"""Words that carry grammar or talk but no subject, in the languages that our creators speak.

Closed word classes, contractions' remains and the fillers of spoken language. Languages without a
list still work: their frequent words weigh little by themselves.
"""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LISTS: dict[str, str] = {
    "english": """
        a about above actually after again against ago all almost alone along already also although always am
        among an and another any anybody anyone anything anyway are aren around as at away back basically be
        because been before behind being below beside between both but by came can cannot come comes coming
        could couldn currently did didn different do does doesn doing don done down during each either else
        enough etc even ever every everybody everyone everything far few first for from further gave get gets
        getting give given gives go goes going gone gonna good got great guess had hadn has hasn have haven
        having he hello her here hers herself hey hi him himself his how however if in instead into is isn it
        its itself just keep kind know last least less let lets like little ll look looking lot lots made make
        makes making many may maybe me mean might mine more most much must my myself near need neither never
        next no nobody none nor not nothing now of off often oh ok okay on once one ones only onto or other
        others our ours ourselves out over own part per perhaps please pretty probably put quite rather re
        really right said same saw say saying says second see seen several shall she should shouldn show since
        so some somebody someone something sometimes sort still such sure take taken takes taking talk tell than
        thank thanks that the their theirs them themselves then there these they thing things think this those
        though three through thus to together too took toward towards try trying two um uh under until up upon
        us ve very via video wanna want wants was wasn way ways we well went were weren what whatever when where
        whether which while who whole whom whose why will with within without won would wouldn yeah yes yet you
        your yours yourself
    """,
    "french": """
        afin ai ainsi alors après as au aucun aucune aujourd aura auront aussi autre autres aux avaient avait
        avant avec avez avoir avons bah ben bien bon bonjour car ce ceci cela celle celles celui cependant ces
        cet cette ceux chaque chez comme comment contre dans de depuis des donc dont du déjà elle elles en
        encore entre es est et étaient était étant été êtes être eu euh eux faire fait faites faut fois font hui
        ici il ils je jusqu la là le les leur leurs lors lorsque lui ma mais me même mêmes merci mes moi moins
        mon ne ni non nos notre nous on ont ou où oui par parce pas pendant peu peut peuvent plus plusieurs
        plutôt pour pourquoi pouvez pouvons puis puisque qu quand que quel quelle quelles quels qui quoi sa sans
        sera seront ses si sinon soit sommes son sont sous sur ta tandis te tel telle tes toi ton toujours tous
        tout toute toutes tout très trop tu un une va vais vers veut voici voilà voir vont vos votre vous
        vraiment vu
    """,
    "german": """
        aber alle allem allen aller alles als also am an andere anderen auch auf aus bei beim bin bis bist da
        dabei damit dann das dass dein deine dem den denn der des die dies diese diesem diesen dieser dieses
        doch dort du durch ein eine einem einen einer eines einfach er es etwas euch euer für gegen genau gibt
        haben habe hat hatte hatten hier hin hinter ich ihm ihn ihnen ihr ihre im in ins ist ja jede jeden jeder
        jetzt kann kein keine können könnt machen mal man mehr mein meine mich mir mit muss müssen nach
        natürlich nicht nichts noch nun nur ob oder ohne schon sehr sein seine sich sie sind so soll sollte um
        und uns unser unter vielleicht viel vom von vor wann war waren warum was weil welche wenn wer werden wie
        wieder wir wird wo wurde wurden über zu zum zur zwischen
    """,
    "spanish": """
        a ahora al algo algunas algunos ante antes aquel aquella aquí así aunque bien bueno cada como con contra
        cosas cual cuando cómo cuál cuánto de del desde donde dos durante el ella ellas ellos en entonces entre
        era eran eres es esa ese eso esos esta estaba están estar estas este esto estos está fue fueron ha hace
        hacer hacia han hasta hay he hola la las le les lo los me mi mis mucho muchos muy más ni no nos nosotros
        nuestra nuestro o otra otras otro otros para pero poco por porque pues puede pueden que quien qué se sea
        ser si sido sin sobre son su sus sí también tan tanto te tiene tienen toda todas todo todos tu tus tú un
        una unas uno unos usted va vamos ver y ya yo él
    """,
    "italian": """
        a ad adesso agli ai al alla alle allora altra altre altri altro anche ancora avere aveva c che chi ci
        ciao ciò come con cosa così cui da dagli dai dal dalla dalle degli dei del della delle dello dentro di
        dopo dove due e ed era erano essere fa fare fatto fino fra già gli ha hanno ho i il in io la le lei li
        lo loro lui ma me mentre mi mia mio molto ne nei nel nella nelle no noi non nostra nostro o ogni ora per
        perché però più poi poco prima può qua quale quando quanto quella quelle quelli quello questa queste
        questi questo qui quindi se sei sempre senza si sia siamo sono sopra sotto sta stata stato su sua sue
        sui sul sulla suo tra tu tutta tutte tutti tutto un una uno va vi viene voi è
    """,
    "portuguese": """
        a agora ainda algum alguma antes ao aos aquela aquele aqui as assim até bem cada com como da dar das de
        dela dele depois desde dessa desse desta deste do dois dos e ela elas ele eles em entre era essa esse
        esta estamos estar estas este estes está estão eu foi foram fazer gente há isso isto já lá lhe mais mas
        me mesmo meu minha muito muitos na nas nem no nos nossa nosso num numa não nós o onde os ou outra outras
        outro outros para pela pelo pelos por porque pouco qual quando quanto que quem se seja sem sempre ser
        será seu seus sim sobre sua suas são só também te tem temos ter teu toda todas todo todos tu tudo um uma
        uns vai vamos ver você vocês à às é
    """,
    "dutch": """
        aan al alle alles als altijd andere ben bij daar dan dat de der deze die dit doen door dus een eens en
        er even ge geen gewoon haar had hebben heb heeft heel hem het hier hij hoe hun ik in is ja je jij jullie
        kan kunnen maar me meer men met mij mijn moet moeten na naar niet niets nog nu of om omdat onder ons
        onze ook op over te tegen toch toen tot uit uw van veel voor waar want was wat we wel werd wie wij wil
        worden wordt zal ze zeer zelf zich zij zijn zo zonder zou
    """,
}

BY_LANGUAGE: dict[str, frozenset[str]] = {language: _words(words) for language, words in _LISTS.items()}
ALL: frozenset[str] = frozenset().union(*BY_LANGUAGE.values())

# Words that a question may hinge on but that name no topic of a talk.
TOPIC_NOISE: frozenset[str] = _words(
    """
    able add added appelle beispiel bit call called change chose choses cinq coisa days deux different dois drei
    ejemplo end esempio example examples exemple exemplo fact façon feel finally found frage fragen hours idea
    important interesting late later mean minute minutes moment month morning move moving name nice number ones
    people person place point possible quatre question questions quickly ready reason sense simple simply single
    sounds start started step steps stuff suis tempo temps term terms thanks think tiempo tijd time times today
    tomorrow tonight tres trois twee use used useful uses using utilise utiliser utilisez utilisons video vidéo
    voorbeeld vídeo way week weeks work worked working works world year years yesterday zeit zwei
    """
)

# Han characters and kana that mostly serve grammar: a key phrase never contains one.
CJK_FUNCTION = frozenset(
    "的了是在我你他她它们这那有和与就也都不要会能可以个为对于从到把被让将很更最而且但或所其之于吗呢吧啊呀么什怎哪谁几些"
    "已经还再又只没么样等并及以使用看说想请好一二三上下中里来去做如果因此时候时当们您"
    "のはをにがでともやへからよねなるですますしたいこそあれど"
)
