# ruff: noqa: E501 (scripts with wide characters)
"""A plain text in each of several languages, written for these tests: a page about a bridge."""

from __future__ import annotations

TEXTS = {
    "de": """Der Stadtrat hat am Dienstag mit großer Mehrheit für den Bau der neuen Brücke gestimmt. Sie soll im Norden
der Stadt über den Fluss führen und die beiden alten Viertel miteinander verbinden, z. B. das Hafenviertel und die Altstadt.
Nach den Plänen, die von einem Büro aus München stammen, wird die Brücke 3,5 km lang und kostet rund 40 Mio. Euro.
Viele Bürger freuen sich auf den kürzeren Weg zur Arbeit. Andere fürchten, dass der Verkehr in den engen Straßen
zunimmt und dass die Ruhe am Ufer verloren geht. Die Bürgermeisterin sagte, man habe alle Einwände ernst genommen.
Im Frühjahr sollen die Arbeiten beginnen, und in vier Jahren wird das Band durchgeschnitten.""",
    "fr": """Le conseil municipal a voté mardi, à une large majorité, en faveur de la construction du nouveau pont. Il
franchira la rivière au nord de la ville et reliera les deux vieux quartiers, qui sont séparés depuis longtemps.
D'après les plans, l'ouvrage sera long de 350 mètres et coûtera environ 40 millions d'euros. Beaucoup d'habitants se
réjouissent, parce qu'ils iront plus vite au travail. D'autres craignent que les voitures ne soient plus nombreuses
dans les rues étroites et que l'on n'entende plus le bruit de l'eau. La maire a dit que toutes les critiques avaient
été entendues. Les travaux commenceront au printemps, et le pont sera ouvert dans quatre ans.""",
    "es": """El ayuntamiento votó el martes, por una amplia mayoría, a favor de la construcción del nuevo puente. El
puente cruzará el río al norte de la ciudad y unirá los dos barrios antiguos, que están separados desde hace mucho.
Según los planos, la obra tendrá 350 metros y costará unos 40 millones de euros. Muchos vecinos están contentos
porque llegarán antes al trabajo. Otros temen que haya más coches en las calles estrechas y que se pierda la calma
de la orilla. ¿Se ha escuchado a todos? La alcaldesa dijo que sí y que no se olvidará ninguna de las críticas. Las obras
empezarán en primavera y el puente se abrirá dentro de cuatro años.""",
    "ja": """市議会は火曜日、新しい橋の建設を賛成多数で可決した。橋は市の北部で川を渡り、長い間離れていた二つの古い地区を結ぶ。
計画によると、橋の長さは三百五十メートルで、費用はおよそ四十億円になる。多くの住民は、通勤の時間が短くなることを喜んでいる。
一方で、狭い通りに車が増えて、川岸の静けさが失われるのではないかと心配する人もいる。市長は「すべての意見を真剣に受け止めた」と述べた。
工事は来年の春に始まり、四年後に橋が開通する予定である。""",
    "zh": """市议会星期二以多数票通过了修建新桥的计划。新桥将在城市的北部跨过河流，把两个长期分开的老城区连接起来。
根据设计，桥的长度是三百五十米，费用大约为四千万元。很多居民感到高兴，因为他们上班的时间会变短。也有人担心狭窄的街道上车辆会更多，
河边的安静会消失。市长说，所有的意见都得到了认真的考虑。工程将在明年春天开始，四年以后大桥就会通车。
在此之前，老桥和渡船还会继续使用，市民可以在市政府的网站上看到施工的情况。""",
    "ar": """صوّت مجلس المدينة يوم الثلاثاء بأغلبية كبيرة على بناء الجسر الجديد. سيعبر الجسر النهر في شمال المدينة ويربط بين
الحيين القديمين اللذين ظلا منفصلين منذ زمن طويل. وحسب المخططات سيكون طول الجسر 350 متراً وستبلغ كلفته نحو 40 مليون دينار.
يشعر كثير من السكان بالفرح لأنهم سيصلون إلى عملهم في وقت أقل، بينما يخشى آخرون أن يزداد عدد السيارات في الشوارع الضيقة
وأن يضيع الهدوء على ضفة النهر. وقالت رئيسة المجلس إن كل الآراء قد أُخذت في الاعتبار. ستبدأ الأعمال في الربيع، وسيُفتح الجسر
بعد أربع سنوات أمام السيارات والمشاة.""",
    "hi": """नगर परिषद ने मंगलवार को बड़े बहुमत से नए पुल के निर्माण के पक्ष में मतदान किया। यह पुल शहर के उत्तर में नदी को
पार करेगा और दो पुराने मोहल्लों को जोड़ेगा, जो लंबे समय से एक दूसरे से अलग हैं। योजना के अनुसार पुल की लंबाई 350 मीटर होगी और
इस पर लगभग 40 करोड़ रुपये का खर्च आएगा। बहुत से लोग खुश हैं, क्योंकि वे अब जल्दी काम पर पहुँच सकेंगे। कुछ लोगों को डर है कि
तंग गलियों में गाड़ियाँ बढ़ जाएँगी और नदी के किनारे की शांति खो जाएगी। महापौर ने कहा कि सभी की बात ध्यान से सुनी गई है।
काम वसंत में शुरू होगा और चार साल में पुल खुल जाएगा।""",
    "th": """สภาเมืองลงมติเมื่อวันอังคารด้วยเสียงข้างมากให้สร้างสะพานแห่งใหม่ สะพานนี้จะข้ามแม่น้ำทางตอนเหนือของเมืองและเชื่อมย่านเก่าสองแห่งที่แยกจากกันมานาน
ตามแผนนั้นสะพานจะมีความยาวสามร้อยห้าสิบเมตรและใช้เงินประมาณสี่สิบล้านบาท ชาวเมืองจำนวนมากดีใจเพราะจะเดินทางไปทำงานได้เร็วขึ้น
แต่บางคนกลัวว่าจะมีรถมากขึ้นในถนนแคบ ๆ และความเงียบสงบริมน้ำจะหายไป นายกเทศมนตรีกล่าวว่าได้รับฟังความคิดเห็นของทุกคนแล้ว
งานจะเริ่มในฤดูใบไม้ผลิและสะพานจะเปิดใช้ในอีกสี่ปี""",
    "ko": """시의회는 화요일에 새 다리를 짓는 계획을 큰 표 차이로 통과시켰다. 다리는 도시 북쪽에서 강을 건너 오랫동안 떨어져 있던 두 옛
동네를 이어 줄 것이다. 설계에 따르면 다리의 길이는 350미터이고 비용은 약 400억 원이 든다. 많은 주민은 출근 시간이 짧아진다며 기뻐하고 있다.
그러나 좁은 길에 자동차가 늘어나고 강가의 조용함이 사라질까 걱정하는 사람도 있다. 시장은 모든 의견을 진지하게 들었다고 말했다.
공사는 내년 봄에 시작되고 다리는 사 년 뒤에 열릴 예정이다. 그때까지 시민들은 지금처럼 낡은 다리와 나룻배를 함께 이용하게 된다.""",
}
"""By code."""
